"""Checkpoints that are complete or don't count, signals to stop, and the log that people read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.logging import disable_progress_bar

from alignxplore_trl.run.errors import StoppedBySignalError
from alignxplore_trl.run.progress import say

COMPLETE = "complete"
# What schedulers send. torchrun passes SIGTERM on and kills its processes 30 s later; it knows
# nothing of SIGUSR1, which leaves as much time as the scheduler does.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2).

# On several CPU processes accelerate calls the device cpu:0, where Trainer loads the optimizer to;
# torch knows of cpu only, and a resume would fail.
torch.serialization.register_package(
    11, lambda storage: None, lambda storage, at: storage if at.startswith("cpu:") else None
)


def train(trainer: Trainer, every: int = 1) -> dict[str, float]:
    """Train, from the last complete checkpoint if there is one.

    Args:
        every: optimizer steps between two places where a checkpoint can be taken.

    Returns:
        Steps, and what Trainer says of a run in one piece.

    Raises:
        StoppedBySignalError: a process was told to stop; the last step is saved.
    """
    checkpoints = Checkpoints(every)
    trainer.add_callback(checkpoints)
    trainer.remove_callback(PrinterCallback)
    if trainer.args.disable_tqdm:
        disable_progress_bar()
    resumed = last_complete_checkpoint(Path(str(trainer.args.output_dir)))
    if resumed and 0 < trainer.args.max_steps <= int(resumed.rpartition("-")[2]):
        # A run that was killed behind its last step takes no further one: with one row an epoch is
        # a step, and all epochs have been trained.
        trainer.train_dataset = trainer.train_dataset.select([0])
    output = trainer.train(resume_from_checkpoint=resumed)
    if checkpoints.stopped_by and output.global_step < trainer.state.max_steps:
        raise StoppedBySignalError(checkpoints.stopped_by)
    # Of a resumed run, Trainer's figures mix its last part with the whole.
    return {"steps": output.global_step} | ({} if resumed else output.metrics)


def last_complete_checkpoint(folder: Path) -> str | None:
    """The complete checkpoint of the highest step; what a kill left of others is deleted.

    All processes call it.
    """
    with PartialState().main_process_first():
        found = {int(at.name.rpartition("-")[2]): at for at in folder.glob("checkpoint-*")}
        complete = [step for step, at in found.items() if (at / COMPLETE).exists()]
        if PartialState().is_main_process:
            for step in found.keys() - set(complete):
                shutil.rmtree(found[step])
    return str(found[max(complete)]) if complete else None


class Checkpoints(TrainerCallback):
    """Takes checkpoints where a resume finds its place, and marks them when all of them is written.

    One that is due inside a generation batch waits for its end. When a process was sent a stop
    signal, all save and stop there; the end of the launcher that started it counts as SIGTERM.

    Args:
        every: optimizer steps between two places where a checkpoint can be taken.

    Attributes:
        stopped_by: the signal that ended the training; 0 for none.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        # Apart: a signal that comes while the processes agree is for the next time.
        self.stopped_by = self._told = 0
        self._due = False
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
            _signal_at_parents_end(signal.SIGTERM)
        self._handlers = {sign: signal.signal(sign, self._take) for sign in STOP_SIGNALS}

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._due |= control.should_save
        control.should_save = False
        if state.global_step % self.every:
            return
        self.stopped_by = max(gather_object([self._told]))
        if self.stopped_by:
            name = signal.Signals(self.stopped_by).name
            say(f"{name}: saving step {state.global_step}, then stopping")
            control.should_training_stop = True
        control.should_save = self._due or self.stopped_by > 0
        self._due = False

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (Path(args.output_dir) / name / COMPLETE).touch()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        _signal_at_parents_end(0)
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler)

    def _take(self, number: int, frame: object) -> None:
        self._told = number


class Log(TrainerCallback):
    """Writes the log to a file as JSON lines, and its main figures on the screen where no bar is.

    Of a resumed run the file begins with what the checkpoint knows: no step is in it twice.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.is_world_process_zero:
            self.file.write_text("".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        line = state.log_history[-1]
        if state.is_world_process_zero:
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if "loss" in line and args.disable_tqdm:
            known = {key: line[key] for key in ("loss", "reward") if line.get(key) is not None}
            shown = [f"{key} {value:.4g}" for key, value in known.items()]
            say(f"step {state.global_step} of {state.max_steps}: {', '.join(shown)}")


def _signal_at_parents_end(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, number)

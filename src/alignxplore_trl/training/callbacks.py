"""Checkpoints that are complete or don't count, signals to stop, and the log that people read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.serialization import STORAGE
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.logging import disable_progress_bar

from alignxplore_trl.run.errors import StoppedBySignalError
from alignxplore_trl.run.progress import say

COMPLETE = "complete"
# What schedulers send. torchrun passes SIGTERM on and kills its processes 30 s later; it knows nothing
# of SIGUSR1, which leaves as much time as the scheduler does.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def _on_cpu(storage: STORAGE, location: str) -> STORAGE | None:
    return storage if location.startswith("cpu:") else None


# On several CPU processes accelerate calls the device cpu:0, and Trainer loads the optimizer's state to
# it; torch knows how to load to cpu only, and a resume would fail.
torch.serialization.register_package(11, lambda storage: None, _on_cpu)


def last_complete_checkpoint(folder: Path) -> str | None:
    """The complete checkpoint of the highest step in a folder; incomplete ones are deleted.

    Every process calls it, and goes on when the first has looked.
    """
    state = PartialState()
    with state.main_process_first():
        found = {
            int(path.name.rpartition("-")[2]): path
            for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        }
        complete = {step: path for step, path in found.items() if (path / COMPLETE).exists()}
        if state.is_main_process:
            for step in found.keys() - complete.keys():
                shutil.rmtree(found[step])
    return str(complete[max(complete)]) if complete else None


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
    output = trainer.train(resume_from_checkpoint=resumed)
    if checkpoints.stopped_by and output.global_step < trainer.state.max_steps:
        raise StoppedBySignalError(checkpoints.stopped_by)
    # Of a resumed run, Trainer's figures mix its last part with the whole.
    return {"steps": output.global_step} | ({} if resumed else output.metrics)


class Checkpoints(TrainerCallback):
    """Lets a checkpoint be taken where a resume finds its place, and marks it when all of it is written.

    A checkpoint that is due inside a generation batch waits for its end. A process that was sent a
    stop signal makes all of them save and stop there. The end of `accelerate launch` or torchrun,
    which started the process, counts as SIGTERM (on Linux).

    Args:
        every: optimizer steps between two places where a checkpoint can be taken.

    Attributes:
        stopped_by: the signal that ended the training; 0 for none.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.stopped_by = self._told = 0
        self._due = False
        self._saved: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Catch the signals from here on."""
        if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
            _signal_with_parent(signal.SIGTERM)
        self._handlers = {sign: signal.signal(sign, self._take) for sign in STOP_SIGNALS}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Let a checkpoint wait, or take what is due; stop where any process was told to."""
        self._due |= control.should_save
        control.should_save = False
        if state.global_step % self.every:
            return
        self.stopped_by = max(gather_object([self._told]))
        if self.stopped_by:
            say(
                f"{signal.Signals(self.stopped_by).name}: saving step {state.global_step}, then stopping"
            )
            control.should_training_stop = True
        control.should_save = self._due or bool(self.stopped_by)
        self._due = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """What is complete isn't written over."""
        control.should_save &= self._saved != state.global_step

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Mark the checkpoint, when every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (folder / COMPLETE).touch()
        self._saved = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Leave the signals to whoever had them before."""
        _signal_with_parent(0)
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._told = number


class Log(TrainerCallback):
    """Writes every line of the log to `metrics.jsonl`, and the main figures on the screen.

    Of a resumed run the file begins with what the checkpoint knows, so that no step is in it twice.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Begin the file anew."""
        if state.is_world_process_zero:
            lines = [json.dumps(line) + "\n" for line in state.log_history]
            self.file.write_text("".join(lines), encoding="utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Add a line."""
        if state.is_world_process_zero:
            line = state.log_history[-1]
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            shown = {key: line[key] for key in ("loss", "reward") if line.get(key) is not None}
            if shown and args.disable_tqdm:
                figures = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
                say(f"step {state.global_step} of {state.max_steps}: {figures}")


def _signal_with_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, number)

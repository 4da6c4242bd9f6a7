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
from trl import SFTTrainer

from alignxplore_trl.run.errors import StoppedBySignalError
from alignxplore_trl.run.progress import say

# torchrun passes SIGTERM on and kills its processes 30 s later; it knows nothing of SIGUSR1, which
# leaves as much time as the scheduler does.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# On several CPU processes accelerate calls the device cpu:0, where Trainer loads the optimizer to;
# torch knows of cpu only, and a resume would fail.
torch.serialization.register_package(
    11, lambda storage: None, lambda storage, at: storage if at.startswith("cpu:") else None
)


def train(trainer: Trainer, every: int = 1) -> dict[str, float]:
    """Train, from the last complete checkpoint if there is one; see `Checkpoints` for `every`.

    Returns steps, and what Trainer says of a run in one piece; raises StoppedBySignalError where a
    process was told to stop, and the last step is saved.
    """
    checkpoints = Checkpoints(every)
    trainer.add_callback(checkpoints)
    trainer.remove_callback(PrinterCallback)
    resumed = last_complete_checkpoint(Path(str(trainer.args.output_dir)))
    done = int(resumed.rpartition("-")[2]) if resumed else 0
    if isinstance(trainer, SFTTrainer) and done >= trainer.args.max_steps > 0:
        # No step is left. With one row an epoch is a step, and all epochs have been trained.
        trainer.train_dataset = trainer.train_dataset.select([0])  # type: ignore[union-attr]
    output = trainer.train(resume_from_checkpoint=resumed)
    if checkpoints.stopped_by and output.global_step < trainer.state.max_steps:
        raise StoppedBySignalError(checkpoints.stopped_by)
    # Of a resumed run, Trainer's figures mix its last part with the whole.
    return {"steps": output.global_step} | ({} if resumed else output.metrics)


def last_complete_checkpoint(folder: Path) -> str | None:
    """Find the last one; the first process deletes what a kill left of others."""
    with PartialState().main_process_first():
        found = [str(at) for at in folder.glob("checkpoint-*")]
        complete = [at for at in found if Path(at, "complete").exists()]
        if PartialState().is_main_process:
            for half in set(found) - set(complete):
                shutil.rmtree(half)
    return max(complete, key=lambda at: int(at.rpartition("-")[2]), default=None)


class Checkpoints(TrainerCallback):
    """Takes checkpoints where a resume finds its place, and marks them when all is written.

    That is `every` so many optimizer steps: one that is due before waits. When a process was sent a
    stop signal, all save and stop there; the end of the launcher that started it counts as SIGTERM.
    """

    def __init__(self, every: int) -> None:
        self.every, self.due = every, False
        # Signals, 0 for none. One that comes while the processes agree is for the next time.
        self.stopped_by = self.told = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
            _signal_at_parents_end(signal.SIGTERM)
        for sign in STOP_SIGNALS:
            signal.signal(sign, lambda number, _: setattr(self, "told", number))

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.due |= control.should_save
        control.should_save = False
        if state.global_step % self.every == 0:
            self.stopped_by = max(gather_object([self.told]))
            if self.stopped_by:
                say(f"signal {self.stopped_by}: saving step {state.global_step}, then stopping")
                control.should_training_stop = True
            control.should_save = self.due or self.stopped_by > 0
            self.due = False

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            Path(args.output_dir, f"checkpoint-{state.global_step}", "complete").touch()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        _signal_at_parents_end(0)
        for sign in STOP_SIGNALS:
            signal.signal(sign, signal.SIG_DFL)


class Log(TrainerCallback):
    """Writes the log to a file as JSON lines, and main figures on the screen where no bar is.

    Of a resumed run the file begins with what the checkpoint knows: no step is in it twice.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.written = file, 0

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        lines = state.log_history
        if state.is_world_process_zero:
            with self.file.open("a" if self.written else "w") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines[self.written :])
        self.written = len(lines)
        known = [f"{key} {lines[-1][key]:.4g}" for key in ("loss", "reward") if lines[-1].get(key)]
        if known and args.disable_tqdm:
            say(f"step {state.global_step} of {state.max_steps}: {', '.join(known)}")


def _signal_at_parents_end(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG

"""Checkpoints that a kill at any moment can't spoil: one counts only once it is complete."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.serialization import STORAGE
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

COMPLETE_MARK = "complete"
_CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def _keep_on_cpu(storage: STORAGE, location: str) -> STORAGE | None:
    return storage if location.startswith("cpu:") else None


# On several CPU processes accelerate calls the device cpu:0, and Trainer loads the optimizer's
# state to it; torch knows how to load to cpu only, and a resume would fail.
torch.serialization.register_package(11, lambda storage: None, _keep_on_cpu)


class CompleteCheckpoints(Trainer):
    """Marks a checkpoint complete when all processes have written all of it; mixed into a trainer.

    Older checkpoints (`save_total_limit`) are deleted only after the new one is complete, so that a
    kill while saving always leaves one to resume from.
    """

    @property
    def steps_between_checkpoints(self) -> int:
        """A checkpoint can be taken after every so many optimizer steps."""
        return 1

    # The step of the checkpoint that was saved last.
    _saved_step: int | None = None

    def save_beside(self, checkpoint: Path) -> None:
        """Write what a trainer keeps in a checkpoint of its own; for one process only."""

    def _run_epoch(self, **arguments: Any) -> None:  # type: ignore[override]
        # A run that was killed behind its last checkpoint has no step left; Trainer takes one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**arguments)  # type: ignore[no-untyped-call]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # At the end of an epoch it may be due twice; what is complete isn't written over.
        if self._saved_step == self.state.global_step:
            return
        if self.args.should_save:
            run_folder = self._get_output_dir(trial=trial)
            self.save_beside(checkpoint_folder(run_folder, self.state.global_step))
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run_folder = self._get_output_dir(trial=trial)
            (checkpoint_folder(run_folder, self.state.global_step) / COMPLETE_MARK).touch()
            rotate_checkpoints(
                output_dir=run_folder,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self._saved_step = self.state.global_step


def checkpoint_folder(run_folder: str | Path, step: int) -> Path:
    """Where transformers puts the checkpoint of an optimizer step."""
    return Path(run_folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in a folder, `None` where there is none."""
    complete = [path for path in _checkpoints(folder) if (path / COMPLETE_MARK).exists()]
    return max(complete, key=_step_of, default=None)


def delete_incomplete_checkpoints(folder: Path) -> list[Path]:
    """Delete what a kill while saving left behind, and return it. For one process only."""
    incomplete = [path for path in _checkpoints(folder) if not (path / COMPLETE_MARK).exists()]
    for path in incomplete:
        shutil.rmtree(path)
    return incomplete


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and _CHECKPOINT_NAME.fullmatch(path.name)
    ]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])

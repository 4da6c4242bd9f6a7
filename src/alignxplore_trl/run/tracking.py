"""Weights & Biases: offline by default, and what the environment says of it stays."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

from alignxplore_trl.run.errors import is_main_process
from alignxplore_trl.run.folder import write_text

Mode = Literal["offline", "online", "none"]


def set_up_tracking(
    mode: Mode, project: str, group: str | None, name: str, folder: Path
) -> list[str]:
    """Set W&B's variables where the environment doesn't, and return the trainer's `report_to`.

    All its files lie in `folder`. So does the run's id, drawn once, so that a resumed stage goes on
    in the same chart.
    """
    if mode == "none":
        return []
    ours = {
        "WANDB_MODE": mode,
        "WANDB_PROJECT": project,
        "WANDB_NAME": name,
        "WANDB_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder / "wandb" / "data"),
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }
    if group is not None:
        ours["WANDB_RUN_GROUP"] = group
    if "WANDB_RUN_ID" not in os.environ:
        ours["WANDB_RUN_ID"] = _run_id(folder / "wandb_id.txt")
    os.environ.update({key: os.environ.get(key, value) for key, value in ours.items()})
    return ["wandb"]


def _run_id(file: Path) -> str:
    """The one in the file, or a new one; of several processes, only the first has a run in W&B."""
    if file.is_file():
        return file.read_text("utf-8")
    drawn = secrets.token_hex(8)
    if is_main_process():
        write_text(file, drawn)
    return drawn

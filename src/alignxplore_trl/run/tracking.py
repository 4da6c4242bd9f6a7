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
    kept = folder / "wandb_id.txt"
    if "WANDB_RUN_ID" not in os.environ and is_main_process():  # Others have no run in W&B.
        if not kept.is_file():
            write_text(kept, secrets.token_hex(8))
        ours["WANDB_RUN_ID"] = kept.read_text("utf-8")
    os.environ.update({key: os.environ.get(key, value) for key, value in ours.items()})
    return ["wandb"]

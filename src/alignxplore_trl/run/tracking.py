"""Weights & Biases: offline by default, online when asked for, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

import pandas as pd

from alignxplore_trl.run.folder import is_main_process, write_text_atomic


def set_up_tracking(
    mode: Literal["offline", "wandb", "none"], project: str, group: str | None, folder: Path
) -> list[str]:
    """Set W&B's environment variables for a run, and say what the trainer should report to.

    The run's id is drawn once and kept in its folder, so that a resumed run goes on in the same
    chart, and another run of the same name has a chart of its own.

    Args:
        mode: `offline` writes into the run folder, `wandb` sends, `none` does nothing.
        project: W&B's project.
        group: W&B's group; `None`: that of the environment, if it has one.
        folder: the run folder; its name is the run's name.

    Returns:
        The trainer's `report_to`.
    """
    if mode == "none":
        return []
    os.environ |= {
        "WANDB_MODE": "online" if mode == "wandb" else "offline",
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": project,
        "WANDB_NAME": folder.name,
        "WANDB_RUN_ID": _run_id(folder / "wandb_id.txt"),
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }
    if group is not None:
        os.environ["WANDB_RUN_GROUP"] = group
    return ["wandb"]


def _run_id(file: Path) -> str:
    """The one in the file, or a new one; of several processes, only the first has a run in W&B."""
    if file.is_file():
        return file.read_text()
    drawn = secrets.token_hex(8)
    if is_main_process():
        write_text_atomic(file, drawn)
    return drawn


def log_table(name: str, table: pd.DataFrame, step: int) -> None:
    """Put a table into W&B's run of this process, at an optimizer step; without a run, nowhere."""
    import wandb  # Takes a second, and only who tracks needs it.

    if wandb.run is not None:
        # The step is the axis that transformers' own values stand on.
        wandb.log({name: wandb.Table(dataframe=table), "train/global_step": step})

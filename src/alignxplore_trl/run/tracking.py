"""Weights & Biases: offline by default, online when asked for, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import pandas as pd


def set_up_tracking(
    mode: Literal["offline", "wandb", "none"], project: str, group: str | None, folder: Path
) -> list[str]:
    """Set W&B's environment variables for a run, and say what the trainer should report to.

    The run's id is a function of its folder, so that a resumed run goes on in the same chart.

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
    identity = "/".join(folder.resolve().parts[-2:])
    os.environ |= {
        "WANDB_MODE": "online" if mode == "wandb" else "offline",
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": project,
        "WANDB_NAME": folder.name,
        "WANDB_RUN_ID": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }
    if group is not None:
        os.environ["WANDB_RUN_GROUP"] = group
    return ["wandb"]


def log_table(name: str, table: pd.DataFrame, step: int) -> None:
    """Put a table into W&B's run of this process, at an optimizer step; without a run, nowhere."""
    import wandb  # Takes a second, and only who tracks needs it.

    if wandb.run is not None:
        # The step is the axis that transformers' own values stand on.
        wandb.log({name: wandb.Table(dataframe=table), "train/global_step": step})

"""What a trainer tells while it runs: metrics.jsonl, and lines where no bar is shown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignxplore_trl.run.folder import write_text_atomic
from alignxplore_trl.run.metrics import append_metrics, read_metrics
from alignxplore_trl.run.progress import SECONDS_BETWEEN_LINES, say

_SHOWN = (
    "loss",
    "reward",
    "reward_std",
    "completions/mean_length",
    "throughput/tokens_per_second",
)


class MetricsCallback(TrainerCallback):
    """Appends each log line to metrics.jsonl: step, epoch and values."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what lies after the checkpoint that the run resumes from, and what a part took."""
        if state.is_world_process_zero:
            rows = [
                row
                for row in read_metrics(self.path)
                if row["step"] <= state.global_step and "train_runtime" not in row
            ]
            write_text_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write what the trainer logs."""
        if state.is_world_process_zero and logs:
            append_metrics(self.path, {"step": state.global_step, "epoch": state.epoch, **logs})


class LinesCallback(TrainerCallback):
    """Tells stderr the step and a few values, at intervals: for logs, where bars can't be drawn."""

    def __init__(self) -> None:
        self._told = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line if the last one is long enough ago, or nothing comes after it."""
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        found = logs or {}
        values = "  ".join(f"{name} {found[name]:.4g}" for name in _SHOWN if name in found)
        # After the last step, the trainer logs what the whole run took: nothing of what is shown.
        if values and (last or now - self._told >= SECONDS_BETWEEN_LINES):
            self._told = now
            say(f"step {state.global_step}/{state.max_steps}  {values}")

"""Recipes as commands in this process: imports are paid once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# So small that a stage takes a second.
SMALL = (
    "tracking.mode=none",
    "data.sizes={cold_start: 8, rl: 32, validation: 4, test: 8}",
    "synthesis.candidates=2",
    "cold_start.max_steps=2",
    "cold_start.per_device_train_batch_size=4",
    "rl.max_steps=2",
    "rl.per_device_train_batch_size=16",
)


class Commands:
    """Runs recipes in a folder of outputs of its own, and says how they ended."""

    def __init__(self, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs = outputs
        self._patch = monkeypatch
        monkeypatch.chdir(ROOT)

    def __call__(self, name: str, *words: str, small: bool = True) -> int:
        """The exit status of `python recipes/<name>.py <words>`."""
        own = [f'paths.outputs="{self.outputs}"', *(SMALL if small else ()), *words]
        self._patch.delenv("HYDRA_FULL_ERROR", raising=False)
        self._patch.setattr(sys, "argv", [f"recipes/{name}.py", *own])
        try:
            importlib.import_module(f"recipes.{name}").main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

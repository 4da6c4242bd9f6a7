"""W&B's modes, and an id that a resumed run keeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from alignxplore_trl.run.tracking import set_up_tracking


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets is taken back."""
    for name in ("MODE", "DIR", "PROJECT", "NAME", "RUN_ID", "RESUME", "SILENT", "RUN_GROUP"):
        monkeypatch.setenv(f"WANDB_{name}", "before")


@pytest.mark.parametrize(("mode", "expected"), [("offline", "offline"), ("wandb", "online")])
def test_wandb_writes_into_the_run_folder(
    tmp_path: Path, mode: Literal["offline", "wandb"], expected: str
) -> None:
    assert set_up_tracking(mode, "project", "a sweep", tmp_path / "rl" / "one") == ["wandb"]
    assert os.environ["WANDB_MODE"] == expected
    assert os.environ["WANDB_DIR"] == str(tmp_path / "rl" / "one")
    assert os.environ["WANDB_PROJECT"] == "project"
    assert os.environ["WANDB_NAME"] == "one"
    assert os.environ["WANDB_RUN_GROUP"] == "a sweep"


def test_without_a_group_that_of_the_environment_stays(tmp_path: Path) -> None:
    set_up_tracking("offline", "project", None, tmp_path / "rl" / "one")
    assert os.environ["WANDB_RUN_GROUP"] == "before"


def test_none_reports_to_nothing_and_sets_nothing(tmp_path: Path) -> None:
    assert set_up_tracking("none", "project", "a sweep", tmp_path) == []
    assert os.environ["WANDB_MODE"] == "before"


def test_the_id_belongs_to_recipe_and_run(tmp_path: Path) -> None:
    ids = []
    for folder in ("a/rl/one", "b/rl/one", "a/rl/two", "a/cold_start/one"):
        set_up_tracking("offline", "project", None, tmp_path / folder)
        ids.append(os.environ["WANDB_RUN_ID"])
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3

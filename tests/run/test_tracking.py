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
    (tmp_path / "rl" / "one").mkdir(parents=True)
    assert set_up_tracking(mode, "project", "a sweep", tmp_path / "rl" / "one") == ["wandb"]
    assert os.environ["WANDB_MODE"] == expected
    assert os.environ["WANDB_DIR"] == str(tmp_path / "rl" / "one")
    assert os.environ["WANDB_PROJECT"] == "project"
    assert os.environ["WANDB_NAME"] == "one"
    assert os.environ["WANDB_RUN_GROUP"] == "a sweep"


def test_without_a_group_that_of_the_environment_stays(tmp_path: Path) -> None:
    set_up_tracking("offline", "project", None, tmp_path)
    assert os.environ["WANDB_RUN_GROUP"] == "before"


def test_none_reports_to_nothing_and_sets_nothing(tmp_path: Path) -> None:
    assert set_up_tracking("none", "project", "a sweep", tmp_path) == []
    assert os.environ["WANDB_MODE"] == "before"


def test_the_id_belongs_to_a_folder_and_stays(tmp_path: Path) -> None:
    ids = []
    for name in ("a/rl/one", "a/rl/one", "b/rl/one", "a/rl/two"):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        set_up_tracking("offline", "project", None, folder)
        ids.append(os.environ["WANDB_RUN_ID"])
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_of_several_processes_the_first_one_keeps_the_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    set_up_tracking("offline", "project", None, tmp_path)
    assert not list(tmp_path.iterdir())

"""W&B's variables: ours where the environment has none, and all files in the stage's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignxplore_trl.run.tracking import set_up_tracking


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    monkeypatch.setattr(os, "environ", kept)


def test_it_is_offline_with_all_files_in_the_folder(tmp_path: Path) -> None:
    assert set_up_tracking("none", "p", None, "a", tmp_path) == []
    assert not any(name.startswith("WANDB_") for name in os.environ)
    assert set_up_tracking("offline", "p", "g", "run/rl", tmp_path) == ["wandb"]
    found = [os.environ[f"WANDB_{name}"] for name in ("MODE", "NAME", "RUN_GROUP")]
    assert found == ["offline", "run/rl", "g"]
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        assert Path(os.environ[name]).is_relative_to(tmp_path)
    # A resumed stage goes on in its chart.
    drawn = os.environ.pop("WANDB_RUN_ID")
    set_up_tracking("offline", "p", "g", "run/rl", tmp_path)
    assert os.environ["WANDB_RUN_ID"] == drawn


def test_what_the_environment_says_stays(tmp_path: Path) -> None:
    said = {"WANDB_RUN_ID": "agent", "WANDB_MODE": "disabled", "WANDB_PROJECT": "sweep"}
    os.environ |= said
    set_up_tracking("online", "p", None, "a", tmp_path)
    assert said.items() <= os.environ.items()
    assert not list(tmp_path.iterdir())

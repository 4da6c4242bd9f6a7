"""W&B's own files: tables of completions, and one run over a restart."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from tiny_training import Run, make_trainer

from alignxplore_trl.run.tracking import set_up_tracking

pytestmark = pytest.mark.slow
VARIABLES = ("MODE", "DIR", "PROJECT", "NAME", "RUN_ID", "RESUME", "SILENT")


@pytest.fixture
def segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of W&B's files: of a run, and of its resume from the first of two steps."""
    for name in VARIABLES:
        monkeypatch.setenv(f"WANDB_{name}", os.environ.get(f"WANDB_{name}", ""))
    folder = tmp_path / "rl" / "one"
    folder.mkdir(parents=True)
    run = Run(folder=str(folder / "checkpoints"), cases=4, epochs=1, completions="written")
    for checkpoint in (None, str(folder / "checkpoints" / "checkpoint-1")):
        report_to = set_up_tracking("offline", "project", None, folder)
        trainer = make_trainer(run, report_to=report_to, save_total_limit=2)
        trainer.train(resume_from_checkpoint=checkpoint)
        wandb.finish()
    return sorted((folder / "wandb").glob("offline-run-*"))


def tables_of(segment: Path) -> list[pd.DataFrame]:
    files = (segment / "files" / "media" / "table").glob("completions_*.json")
    found: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files]
    tables = [pd.DataFrame(table["data"], columns=table["columns"]) for table in found]
    return sorted(tables, key=lambda table: int(table["round"].iloc[0]))


def test_completions_are_tables_in_one_run_over_a_restart(
    segments: list[Path], tmp_path: Path
) -> None:
    first, second = segments
    identities = {segment.name.rpartition("-")[2] for segment in segments}
    assert identities == {os.environ["WANDB_RUN_ID"]}
    assert [len(tables_of(segment)) for segment in segments] == [2, 1]
    (again,) = tables_of(second)
    pd.testing.assert_frame_equal(again, tables_of(first)[1])

    written = pd.read_parquet(tmp_path / "rl/one/checkpoints/completions/step_000001.parquet")
    assert list(again.columns) == [
        "case_id", "round", "prompt", "d_prev", "description", "reward", "advantage",
    ]  # fmt: skip
    for column in ("case_id", "round", "d_prev"):
        assert again[column].tolist() == written[column].tolist()
    assert again["advantage"].tolist() == pytest.approx(written["advantage"].tolist())
    described = again["description"].dropna()
    assert 0 < len(described) < len(again)
    for description, completion in zip(
        described, written.loc[described.index, "completion"], strict=True
    ):
        assert description.removeprefix("prefers ").removeprefix("<post> ") in completion
    logged = (first / f"run-{os.environ['WANDB_RUN_ID']}.wandb").read_bytes()
    assert b"tokens_per_second" in logged

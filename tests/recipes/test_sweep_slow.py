"""Whole sweeps through make: a few real steps, under Hydra's own launcher and submitit's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from alignxplore_trl.run.folder import is_finished, read_summary

ROOT = Path(__file__).parents[2]
# Random judges put their mass anywhere; whatever they lean to counts here.
FEW = (
    "sweep.recipe=rl",
    "setting=base",
    "data.counts={cold_start: 10, rl: 24, validation: 4, test: 6}",
    "judge.minimum_label_mass=0.0",
    "preflight.skip=[judge]",
    "model.max_completion_tokens=24",
    "trainer.max_steps=2",
    "trainer.save_steps=2",
    "trainer.per_device_train_batch_size=16",
)


def sweep(outputs: Path, assets: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    places = (f"paths.outputs={outputs}", f"paths.assets={assets}")
    return subprocess.run(
        [sys.executable, "recipes/sweep.py", *places, *FEW, *overrides],
        cwd=ROOT,
        env={**os.environ, "HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def only_sweep(outputs: Path) -> Path:
    (folder,) = (outputs / "sweep").glob("tiny-rl-seed0-*")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_of_four_points_ends_with_three_results_and_one_explained_failure(
    tmp_path: Path, assets: Path
) -> None:
    rates = "trainer.learning_rate=1.0e-4,fast,5.0e-4,1.0e-3"
    given = ("start=backbone", "sweep.metric=reward", rates)
    done = sweep(tmp_path, assets, *given)
    assert done.returncode == 1, done.stderr[-3000:]
    why = "trainer.learning_rate: found 'fast', expected float"
    told = done.stderr.index(why)
    assert told < done.stderr.index("sweep: starting trainer.learning_rate=0.0001")
    folder = only_sweep(tmp_path)
    table = pd.read_csv(folder / "points.csv")
    assert list(table["trainer.learning_rate"]) == ["0.0001", "fast", "0.0005", "0.001"]
    assert list(table["state"]) == ["finished", "failed", "finished", "finished"]
    assert table["reward"].between(0, 1).sum() == 3
    assert why in table["reason"][1]
    assert (folder / "table.txt").read_text() in done.stdout
    assert "1 of 4 points failed" in done.stderr
    trained = table[table.state == "finished"]
    for run in trained["run"]:
        (records,) = (Path(run) / "wandb").glob("offline-run-*/*.wandb")
        assert folder.name.encode() in records.read_bytes()

    models = [Path(run) / "model" / "model.safetensors" for run in trained["run"]]
    before = [model.stat().st_mtime_ns for model in models]
    again = sweep(tmp_path, assets, *given)
    assert again.returncode == 1
    assert "starting trainer.learning_rate=0.0001" not in again.stderr
    assert f"trainer.learning_rate=fast can't run: {why}" in again.stderr
    assert [model.stat().st_mtime_ns for model in models] == before
    pd.testing.assert_frame_equal(pd.read_csv(folder / "points.csv"), table)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_submitit_runs_points_as_jobs_of_their_own(tmp_path: Path, assets: Path) -> None:
    two = ("tracking=none", "trainer.learning_rate=1.0e-4,5.0e-4", "hydra/launcher=submitit_local")
    done = sweep(tmp_path, assets, *two)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = only_sweep(tmp_path)
    assert is_finished(folder)
    assert read_summary(folder)["points"] == 2
    assert len(list((folder / ".submitit").glob("*/*_result.pkl"))) == 2
    table = pd.read_csv(folder / "points.csv")
    assert list(table["state"]) == ["finished"] * 2
    assert (table["low"] <= table["accuracy"]).all()
    # They started at the same time, from stages that one of them made for both.
    logs = [(folder / "points" / number / "log.txt").read_text() for number in ("0", "1")]
    for stage in ("prepare", "synthesize", "cold_start"):
        assert "".join(logs).count(f"{stage}: starting") == 1
    # Validation users alone are asked.
    (evaluated, _) = (tmp_path / "evaluate").glob("sweep-*")
    assert "split: validation" in (evaluated / "config.yaml").read_text()
    again = sweep(tmp_path, assets, *two)
    assert "is finished; nothing to do" in again.stderr
    assert "best: trainer.learning_rate=" in again.stdout

"""VPL from its command line: trained on the RL users, saved, and loaded to decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignxplore_trl.baselines.vpl import Vpl
from alignxplore_trl.data.sources import read_split
from alignxplore_trl.run.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def train(run: Callable[..., None], outputs: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    run("prepare", outputs, "--for", "vpl", *overrides)
    run("vpl", outputs, *overrides)
    folder = (outputs / "vpl" / "latest").resolve()
    return folder, json.loads((folder / "summary.json").read_text())


def test_a_few_steps_leave_a_method_that_decides(
    tmp_path: Path, run: Callable[..., None], assets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("data.counts={cold_start: 2, rl: 20, validation: 4, test: 6}", "vpl.epochs=1")
    folder, found = train(run, tmp_path, *few)
    assert (found["data/cases"], found["data/pairs"]) == (20, 20 * 9)
    assert found["steps"] == 3  # 180 targets in batches of 64.
    assert found["validation/cases"] == 4
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [3]
    vpl = Vpl.load(folder / "model", dtype="float32", max_batch_tokens=4096)
    (prepared,) = (tmp_path / "prepare").glob("tiny-*")
    decisions = vpl.decide(read_split(prepared, "test"))
    assert len({decision.probability_chosen for decision in decisions}) == 6
    run("vpl", tmp_path, *few)
    assert "is finished; nothing to do" in capsys.readouterr().err


@pytest.mark.slow
def test_one_dimension_is_learned_as_shipped(tmp_path: Path, run: Callable[..., None]) -> None:
    folder, found = train(
        run, tmp_path, "data.dimensions_per_user=1", f"model.backbone={ROOT / 'assets/backbone'}"
    )
    assert found["validation/accuracy"] > 0.9
    vpl = Vpl.load(folder / "model", dtype="float32", max_batch_tokens=16384)
    (prepared,) = (path for path in (tmp_path / "prepare").glob("tiny-*"))
    cases = read_split(prepared, "test")
    for signals in (4, 8):
        history = [replace(case, signals=case.signals[:signals]) for case in cases]
        decided = [decision.probability_chosen for decision in vpl.decide(history)]
        right = [probability is not None and probability > 0.5 for probability in decided]
        assert sum(right) / len(right) > 0.9

"""make evaluate: what is asked for is added, and nothing is left out without a word."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recipes.evaluate import main as evaluate
from recipes.judge_report import main as judge_report
from recipes.prepare import main as prepare

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(command: Callable[[], None], stage: str, *overrides: str) -> dict[str, Any]:
        sizes = "data.sizes={cold_start: 2, rl: 2, validation: 4, test: 10}"
        own = [sizes, f"paths.outputs={tmp_path}", "run=t", "tracking.mode=none", *overrides]
        monkeypatch.setattr(sys, "argv", [f"{stage}.py", *own])
        command()
        summary: dict[str, Any] = json.loads((tmp_path / "t" / stage / "summary.json").read_text())
        return summary

    call(prepare, "data")
    return call


def test_methods_judges_and_cases_are_added(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = 'method=["null",golden,backbone,rl,another_users_rl]'
    summary = run(evaluate, "evaluation", methods, "evaluation.cases=4")

    assert summary["acc_jud/world/judge/golden/any"] == 1.0
    assert summary["cases/world/test/backbone/streaming4+4"] == 4
    assert summary["left_out/rl"].endswith("make rl makes it")
    assert "acc_jud judge" in capsys.readouterr().out
    before = pd.read_parquet(tmp_path / "t/evaluation/verdicts.parquet")

    # Trained meanwhile; scored by one more judge, and beside a model from elsewhere.
    shutil.copytree("assets/teacher", tmp_path / "t/rl/model")
    (tmp_path / "t/rl/summary.json").write_text("{}")
    summary = run(
        evaluate,
        "evaluation",
        methods,
        "evaluation.cases=6",
        "judge.minimum_label_mass=0.4",
        "+evaluation.policies.other=assets/teacher",
    )

    assert "left_out/rl" not in summary
    assert summary["cases/world/judge_local/other/streaming4+4"] == 6
    assert summary["cases/world/judge/backbone/streaming4+4"] == 4
    assert summary["win_rate/world/test/rl-backbone/streaming4+4-streaming4+4"] is not None
    assert summary["acc_gen/world/generator/rl/streaming4+4"] is not None
    after = pd.read_parquet(tmp_path / "t/evaluation/verdicts.parquet")
    assert before.merge(after).shape[0] == before.shape[0]
    # The same model under two names says the same.
    said = pd.read_parquet(tmp_path / "t/evaluation/descriptions.parquet")
    texts = [said[said.method == name].completion.tolist() for name in ("rl", "other")]
    assert texts[0] == texts[1]

    with pytest.raises(SystemExit) as stopped:
        run(evaluate, "evaluation", methods, "evaluation.writer.temperature=0.1")
    assert stopped.value.code == 2
    assert "methods.backbone.writer.temperature: 0.9 there, 0.1 asked" in capsys.readouterr().err


def test_a_judge_is_reported_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(judge_report, "judge_report")

    assert summary["golden/acc_jud/value"] == 1.0
    assert summary["golden/acc_jud/chosen_first/n"] == 4
    assert 0.4 < summary["null/position_bias/value"] < 0.6
    assert "position_gap" in capsys.readouterr().out

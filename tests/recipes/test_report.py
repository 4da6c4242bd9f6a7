"""The report of finished evaluations, from the command line to the files it leaves."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from alignxplore_trl.launch.entry import resolve
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.metrics import append_metrics
from tests.reporting.evaluation_folder import EvaluationFolder

ROOT = Path(__file__).parents[2]


def report(outputs: Path, *overrides: str) -> None:
    """Run the recipe's file as the command line does, in this process."""
    argv, folder = sys.argv, Path.cwd()
    sys.argv = ["recipes/report.py", f"paths.outputs={outputs}", *overrides]
    os.chdir(ROOT)
    try:
        runpy.run_path("recipes/report.py", run_name="__main__")
    finally:
        sys.argv = argv
        os.chdir(folder)


def test_it_reports_the_evaluation_of_the_same_choices(tmp_path: Path) -> None:
    evaluated = resolve("evaluate", "evaluate", [f"paths.outputs={tmp_path}", "seed=1"])["run_name"]
    training = RunFolder.open(tmp_path / "rl" / "trained", {})
    append_metrics(training.metrics, {"step": 1, "reward": 0.5})
    upstream = {"prepare": "x", "rl_base4": "trained", "rl_base8": None}
    EvaluationFolder(count=12, seed=1, upstream=upstream).write(tmp_path, evaluated)
    report(tmp_path, "seed=1", "page.cases=3")
    (folder,) = (tmp_path / "report").glob("tiny-*")
    page = (folder / "report.html").read_text()
    assert f"Evaluation: {evaluated}" in page
    assert page.count("<article") == 3
    assert (folder / "charts" / "training_rl_base4.png").is_file()
    assert "](charts/accuracy.png)" in (folder / "report.md").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == {"finished": True, "evaluations": 1, "cases": 3, "sections": 9,
                       "sections_missing": 1}  # fmt: skip


def test_an_evaluation_that_is_not_there_is_answered_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        report(tmp_path, "setting=streaming", "upstream.evaluate=[gone,lost]", "page.cases=-1")
    assert exit_info.value.code == 2
    told = capsys.readouterr().err
    for name in ("gone", "lost"):
        assert f"upstream.evaluate: the run {tmp_path}/evaluate/{name} isn't there" in told
        assert f"RUN={name}\n" in told
    assert "make it with: make evaluate SETTING=streaming" in told
    assert "page.cases: -1 found, expected 0 or more" in told
    assert not list(tmp_path.iterdir())

"""Every recipe end to end, with a few steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.recipes.commands import ROOT, Commands

Capture = pytest.CaptureFixture[str]
STAGES = ("data", "synthesis", "cold_start", "rl", "evaluation", "report", "judge_report", "vpl")
FEW = ("run=a", "evaluation.win_rate.pairs=[]", 'method=["null",golden,vpl,rl]', "vpl.epochs=1")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of one run."""
    folder = tmp_path_factory.mktemp("chain") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        command = Commands(folder, patch)
        for name in ("prepare", "synthesize", "cold_start", "rl", "vpl", "evaluate", "report"):
            assert command(name, *FEW) == 0, name
        assert command("judge_report", *FEW) == 0
    return folder


@pytest.fixture
def command(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Recipes that find that run."""
    return Commands(outputs, monkeypatch)


def test_each_stage_leaves_its_folder(outputs: Path) -> None:
    for stage in STAGES:
        assert isinstance(json.loads((outputs / "a" / stage / "summary.json").read_text()), dict)
        assert (outputs / "a" / stage / "config.yaml").is_file()
    for stage in ("cold_start", "rl"):
        for name in ("model.safetensors", "alignxplore.json"):
            assert (outputs / "a" / stage / "model" / name).is_file()
    assert (outputs / "a" / "report" / "report.html").is_file()


def test_what_is_evaluated_later_is_added(command: Commands, capsys: Capture) -> None:
    assert command("evaluate", *FEW[:2], "method=[longer_reply,rl]") == 0
    said = capsys.readouterr()
    assert re.search("longer_reply.*cases of world", said.err)
    assert "golden" not in said.err
    assert not re.search("rl, .*cases of world", said.err)


def test_inspect_shows_what_is_read_and_learned(
    command: Commands, capsys: Capture, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert command("inspect_cases", "run=a", "inspection.cases=1", f"inspection.html={page}") == 0
    assert "<think>" in capsys.readouterr().out
    assert page.is_file()
    assert not (command.outputs / "a" / "inspect_cases").exists()


def test_preflight_passes_and_fails_with_a_remedy(
    command: Commands, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert command("preflight", "run=a") == 0
    said = capsys.readouterr().out
    assert "PASS  judge: 72 of 72 labelled questions right" in said
    assert "PASS  batches: 4 prompts x 4 rollouts = 16 completions" in said
    assert command("preflight", "run=a", "prompts.max_tokens=4000", "model.teacher=/no/such") == 2
    said = capsys.readouterr().out
    assert "FAIL  model assets/backbone: assets/backbone: reads 2048 tokens" in said
    assert "FAIL  model /no/such: /no/such" in said


def test_from_main_to_train_is_one_screen() -> None:
    main = (ROOT / "recipes" / "rl.py").read_text("utf-8").partition("def main(")[2]
    assert main.partition("train(trainer")[0].count("\n") <= 80

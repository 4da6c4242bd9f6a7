"""A data source, a judge and a reward of somebody else's: a class and a YAML each, outside."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.recipes.commands import ROOT, SMALL, Commands

CODE = """
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.judging.protocol import Verdict


class Mine:
    def __init__(self, users: int) -> None:
        self.users = users

    def cases(self, counts, seed):
        pairs = [Comparison(f"post {n}", "tldr, haha", "moreover, soberly") for n in range(9)]
        found = [Case(f"c{n}", f"u{n}", tuple(pairs[1:]), pairs[0]) for n in range(self.users)]
        return dict.fromkeys(("cold_start", "rl", "validation", "test"), found)


class Coin:
    def judge(self, questions):
        return [Verdict(0.6 if q.response_a > q.response_b else 0.4, 1.0) for q in questions]


def brief(*, completions, most, **columns):
    return [float(len(text) <= most) for text in completions]
"""
FILES = {
    "data/mine.yaml": "# Mine.\n_target_: strange.Mine\nusers: 16\n",
    "judge/coin.yaml": "# A coin.\n_target_: strange.Coin\n",
    "reward/brief.yaml": "# Short ones.\n_target_: strange.brief\n_partial_: true\nmost: 120\n",
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    for name, text in {"strange.py": CODE, **FILES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.slow
def test_two_steps_through_make(outside: Path, tmp_path: Path) -> None:
    small = " ".join(word for word in SMALL if not word.startswith("data."))
    overrides = f"hydra.searchpath=[file://{outside}] paths.outputs={tmp_path}/outputs {small}"
    words = ["DATA=mine", "JUDGE=coin", "START=backbone", "RUN=a", f"ARGS={overrides}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    for target, reward in (("rl", "brief"), ("rl", "judged")):
        command = ["make", target, f"REWARD={reward}", *words, f"RUN={reward}"]
        done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        log = (tmp_path / "outputs" / reward / "rl" / "metrics.jsonl").read_text()
        steps = [row for line in log.splitlines() if "reward" in (row := json.loads(line))]
        assert len(steps) == 2
        assert f"rewards/{reward}/mean" in steps[0]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("reward/brief.yaml", "_target_: strange.brieff\n", "module 'strange' has no attribute"),
        ("data/mine.yaml", "_target_: strange.Mine\nuser: 1\n", "argument; did you mean users?"),
        ("judge/coin.yaml", "_target_: strang.Coin\n", "No module named 'strang'"),
        ("judge/coin.yaml", "urls: []\n", "judge: expected the name of a class or function"),
    ],
)  # fmt: skip
def test_what_does_not_bind_is_said_first(
    outside: Path, command: Commands, capsys: pytest.CaptureFixture[str],
    file: str, text: str, said: str,
) -> None:  # fmt: skip
    (outside / file).write_text(text)
    words = [f"hydra.searchpath=[file://{outside}]", "data=mine", "judge=coin", "reward=brief"]
    assert command("prepare", *words, small=False) == 2
    assert said in capsys.readouterr().err
    assert not command.outputs.exists()

"""Evaluations on two processes, and killed in the middle: the figures are those of a plain run."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--quiet",
          "--config_file", "conf/launch/accelerate/cpu2.yaml"]  # fmt: skip
# Small enough batches that there is work for two processes, and something left to kill.
ASKED = ("data.counts={cold_start: 1, rl: 1, validation: 1, test: 30}", "evaluation.batch_size=5",
         'evaluation.methods=["null",golden,pba,backbone]',
         "evaluation.benchmarks=[world,world_drift3]",
         "evaluation.win_rate.pairs=['golden/base4 - null/base4']")  # fmt: skip

pytestmark = pytest.mark.slow


def command(outputs: Path, name: str, *before: str) -> list[str]:
    return [sys.executable, *before, "recipes/evaluate.py", *ASKED, f"run_name={name}",
            f"paths.outputs={outputs}", f"evaluation.cache={outputs / name}.sqlite"]  # fmt: skip


def figures(outputs: Path, name: str) -> dict[str, Any]:
    """The summary without what a clock has measured."""
    found = json.loads((outputs / "evaluate" / name / "summary.json").read_text())
    return {key: value for key, value in found.items() if not key.startswith("seconds/")}


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A plain run."""
    folder = tmp_path_factory.mktemp("outputs")
    prepare = [sys.executable, "recipes/prepare.py", "--for", "evaluate", *ASKED]
    for each in ([*prepare, f"paths.outputs={folder}"], command(folder, "plain")):
        subprocess.run(each, cwd=ROOT, env=environment, check=True)
    return folder


def test_two_processes_end_with_the_same_figures(
    outputs: Path, environment: dict[str, str]
) -> None:
    subprocess.run(command(outputs, "two", *LAUNCH), cwd=ROOT, env=environment, check=True)
    plain, two = figures(outputs, "plain"), figures(outputs, "two")
    assert plain.keys() == two.keys()
    assert len(plain) > 200
    for key, value in plain.items():
        expected = pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
        assert two[key] == expected, key


def test_a_killed_evaluation_goes_on_with_what_was_answered(
    outputs: Path, environment: dict[str, str]
) -> None:
    kept = outputs / "killed.sqlite"
    run = subprocess.Popen(command(outputs, "killed"), cwd=ROOT, env=environment)
    deadline = time.monotonic() + 300
    while run.poll() is None and entries(kept) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = entries(kept)
    assert not (outputs / "evaluate" / "killed" / "summary.json").exists()
    assert before >= 4
    subprocess.run(command(outputs, "killed"), cwd=ROOT, env=environment, check=True)
    assert figures(outputs, "killed") == figures(outputs, "plain")
    assert entries(kept) > before
    assert entries(kept) == entries(outputs / "plain.sqlite")


def entries(kept: Path) -> int:
    """How many answers are kept by now."""
    if not kept.exists():
        return 0
    database = sqlite3.connect(f"file:{kept}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # The table isn't there yet.
        return 0
    finally:
        database.close()

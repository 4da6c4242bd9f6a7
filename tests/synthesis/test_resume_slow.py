"""A synthesis that is killed goes on with the same bytes, and asks nobody twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.run.stub_server import Reply, StubServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
FILES = ("examples.jsonl", "unverified.jsonl", "candidates.jsonl", "summary.json")


def start(recipe: str, outputs: Path, run: str, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, f"recipes/{recipe}.py", f"paths.outputs={outputs}", f"run={run}"]
    small = "data.sizes={cold_start: 48, rl: 4, validation: 4, test: 4}"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, small, *words], cwd=ROOT, env=one_thread)


def kill_when(process: subprocess.Popen[bytes], file: Path, lines: int) -> None:
    """As the file of answers has so many lines, without a warning."""
    while not (file.is_file() and file.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the data of a run `base`."""
    folder = tmp_path_factory.mktemp("outputs")
    assert start("prepare", folder, "base").wait() == 0
    return folder


def test_killed_in_the_teacher_and_in_the_judge_the_bytes_are_the_same(outputs: Path) -> None:
    own = ("upstream=base", "model.generation_batch_size=32")
    assert start("synthesize", outputs, "whole", *own).wait() == 0
    answers = outputs / "killed" / "synthesis" / "answers.jsonl"
    for lines in (2, 7):  # Six batches of a round, then its rewards.
        kill_when(start("synthesize", outputs, "killed", *own), answers, lines)
    assert start("synthesize", outputs, "killed", *own).wait() == 0
    for name in FILES:
        whole = (outputs / "whole" / "synthesis" / name).read_bytes()
        assert (answers.parent / name).read_bytes() == whole
    assert len(answers.read_bytes().splitlines()) == 14


def test_a_served_teacher_is_not_paid_twice(outputs: Path) -> None:
    def plan(body: dict[str, Any], attempt: int) -> Reply:
        text = f" r </think> <answer> prefers warm {attempt} </answer>"
        return Reply({"choices": [{"text": text, "finish_reason": "stop"}]}, pause=0.02)

    answers = outputs / "served" / "synthesis" / "answers.jsonl"
    with StubServer(plan) as server:
        own = ("upstream=base", "teacher=server", f"teacher.urls=[{server.url}]")
        own += ("teacher.concurrency=4",)
        kill_when(start("synthesize", outputs, "served", *own), answers, 60)
        assert start("synthesize", outputs, "served", *own).wait() == 0
    asked = Counter(json.dumps(body["prompt"]) for body in server.received)
    asked.pop('"Say hello."')
    # Four of each prompt, and at most the four that were under way.
    assert 0 <= sum(asked.values()) - 4 * len(asked) <= 4

"""From a source to files: the same bytes after a kill, and no torch on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from alignxplore_trl.cases import read_cases
from alignxplore_trl.data.prepare import prepare
from alignxplore_trl.data.world import World

SIZES = {"cold_start": 40, "rl": 40, "validation": 10, "test": 20}
# Rows in ALIGNX's shape, without vectors, each of a user of its own.
ROWS = "".join(
    json.dumps({
        "prompt": f"post {n} of many words that differ {n * 7}", "chosen": "yes", "rejected": "no",
        "user": f"u{n}",
        "Pair-wise Comparative Feedback": [
            {"prompt": f"post {n} {m} {n * 31 + m}", "chosen": "y", "rejected": "n"}
            for m in range(4)
        ],
    }) + "\n"
    for n in range(2000)
)  # fmt: skip
PROGRAM = """
import sys
from pathlib import Path
from alignxplore_trl.data import mapping, psoups, release, robustness, rounds
from alignxplore_trl.data.alignx import AlignX
from alignxplore_trl.data.prepare import prepare
sizes = {"cold_start": 500, "rl": 500, "validation": 100, "test": 500}
print("begun", flush=True)
prepare(AlignX(sys.argv[1], sizes, 1, 4, []), Path(sys.argv[2]), 0)
assert not {"torch", "transformers", "trl"} & set(sys.modules), "a heavy library was loaded"
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_splits_are_files_and_counts_are_numbers(tmp_path):
    counts = prepare(World(SIZES, 2, 4), tmp_path, 3)
    assert counts == {f"cases/{split}": size for split, size in SIZES.items()}
    splits = World(SIZES, 2, 4).cases(Counter(), 3)
    assert {name: read_cases(tmp_path / f"{name}.jsonl") for name in SIZES} == splits
    assert sorted(contents(tmp_path)) == sorted(f"{split}.jsonl" for split in SIZES)


def test_reading_data_loads_no_torch(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    arguments = [str(tmp_path / "rows.jsonl"), str(tmp_path / "data")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.slow
def test_a_kill_at_any_time_and_the_same_command_again_give_the_same_bytes(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rows), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        return process

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole = time.monotonic() - began
    for part in (0.3, 0.6, 0.9):
        process = start(tmp_path / "killed")
        time.sleep(part * whole)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 4

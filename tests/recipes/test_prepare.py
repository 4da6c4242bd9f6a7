"""`make data` of ALIGNX's rows: what it leaves, how it ends, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignxplore_trl.data.sources import read_split
from benchmarks.data import Generator, write_lines

ROOT = Path(__file__).parents[2]
COUNTS = "data.counts={cold_start: 6, rl: 6, validation: 2, test: 4}"
PAIR = "Pair-wise Comparative Feedback"


def command(rows: Path, outputs: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "recipes/prepare.py", "data=alignx", f"data.path={rows}", "run_name=x",
        f"paths.outputs={outputs}", COUNTS, "data.test_posts.users=3", *overrides,
    ]  # fmt: skip


def prepare(rows: Path, outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(rows, outputs, *overrides), cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 rows, 30 of which pass, and a broken line among them."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = list(Generator(0).lines(1000))
    path.write_text("\n".join([*lines[:400], '{"prompt": "half a ro', *lines[400:]]) + "\n")
    return path


def test_rows_with_directions_become_refined_sets_with_a_card(rows: Path, tmp_path: Path) -> None:
    done = prepare(rows, tmp_path, "data.workers=2")
    assert done.returncode == 0, done.stderr
    assert "line 401, column" in done.stderr
    assert "cold_start 6, rl 6, validation 2, test 4, test_posts 3;" in done.stderr
    folder = tmp_path / "prepare/x"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["refined"] is True
    assert (summary["rows"], summary["rows_broken"], summary["rows_passed"]) == (1001, 1, 30)
    assert [len(read_split(folder, split)) for split in ("rl", "test", "test_posts")] == [6, 4, 3]
    card = (folder / "card.md").read_text()
    assert "| rows_broken | 1 |" in card
    assert "Tokens of `assets/backbone`" in card
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".parquet") == [
        ".lock", "balance.png", "card.md", "config.yaml", "environment.txt", "lengths.png",
        "summary.json",
    ]  # fmt: skip


def test_strict_ends_with_status_2_when_all_rows_have_been_read(rows: Path, tmp_path: Path) -> None:
    done = prepare(rows, tmp_path, "data.strict=true")
    assert done.returncode == 2
    assert "1 problem to mend" in done.stderr
    assert "line 401, column" in done.stderr
    assert not list((tmp_path / "prepare/x").glob("*.parquet"))


def test_rows_without_directions_are_split_as_they_are(tmp_path: Path) -> None:
    def pair(name: str) -> dict[str, str]:
        return {"prompt": f"post {name}", "chosen": f"yes {name}", "rejected": "no"}

    lines = [
        json.dumps(pair(f"{n}") | {PAIR: [pair(f"{n} {item}") for item in range(8)]})
        for n in range(30)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines, "{"]))
    done = prepare(path, tmp_path)
    assert done.returncode == 2
    assert "line 31, column 2: not JSON" in done.stderr
    assert "the first row has no direction vector" in done.stderr
    done = prepare(path, tmp_path, "data.strict=false", "run_name=lenient")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "prepare/lenient/summary.json").read_text())
    assert (summary["refined"], summary["rows"], summary["rows_broken"]) == (False, 31, 1)
    assert (tmp_path / "prepare/lenient/card.md").is_file()


@pytest.mark.slow
def test_a_kill_half_way_costs_what_was_being_read(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_lines(rows, 30_000)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert prepare(rows, whole, "data.workers=1").returncode == 0
    with subprocess.Popen(
        command(rows, halves, "data.workers=2"), cwd=ROOT, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        parts = halves / "prepare/x/.parts"
        deadline = time.monotonic() + 120
        while len(list(parts.glob("0*.npz"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list((halves / "prepare/x").glob("*.parquet"))
    done = prepare(rows, halves, "data.workers=2")
    assert done.returncode == 0, done.stderr
    assert "chunks have been read before" in done.stderr
    for split in ("cold_start", "rl", "validation", "test", "test_posts"):
        one, other = (folder / f"prepare/x/{split}.parquet" for folder in (whole, halves))
        assert one.read_bytes() == other.read_bytes()


def test_rows_of_which_none_can_be_read_are_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "chosen": "b", "rejected": "c"}\n')
    done = prepare(path, tmp_path)
    assert done.returncode == 2
    assert "line 1, prompt: nothing found, expected a text" in done.stderr

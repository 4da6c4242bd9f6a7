"""The table of a sweep: every point is a row, and what failed says why."""

from __future__ import annotations

import csv
from pathlib import Path

from alignxplore_trl.reporting.results import Figure
from alignxplore_trl.reporting.sweeps import (
    PointResult,
    best_of,
    read_result,
    read_results,
    sweep_csv,
    sweep_text,
    write_result,
)

RESULTS = [
    PointResult(("a=1", "+b=x"), "finished", Figure(0.5, 0.4, 0.6), 12.4, "o/rl/one", None, "l0"),
    PointResult(("a=2", "+b=x"), "failed", None, 3.0, "o/rl/two", "Error: no room", "l1"),
    PointResult(("a=no", "+b=x"), "failed", reason="a: found 'no', expected a number"),
    PointResult(("a=3", "+b=x"), "finished", Figure(0.25), 9.0, "o/rl/three", None, "l3"),
]


def test_results_are_read_back_in_order_and_missing_ones_are_unfinished(tmp_path: Path) -> None:
    for number, result in enumerate(RESULTS):
        folder = tmp_path / str(number + 8)  # As numbers, 10 is behind 9.
        folder.mkdir()
        write_result(folder, result)
    (tmp_path / "20").mkdir()
    assert read_result(tmp_path / "20") is None
    points = [*(each.overrides for each in RESULTS), ("a=4", "+b=x")]
    found = read_results(tmp_path, points)
    assert found == [*RESULTS, PointResult(("a=4", "+b=x"), "unfinished")]


def test_the_best_is_the_highest_or_the_lowest_of_those_that_finished() -> None:
    assert best_of(RESULTS, "maximise") is RESULTS[0]
    assert best_of(RESULTS, "minimise") is RESULTS[3]
    assert best_of(RESULTS[1:3], "maximise") is None


def test_every_point_is_a_row() -> None:
    text = sweep_text(RESULTS, "reward", "mean over the last steps", "maximise", "plain")
    header, _, *rows = text.splitlines()
    assert header.split() == ["a", "b", "reward", "seconds", "state", "run"]
    assert rows[0].split() == ["1", "x", "0.5", "(0.4–0.6)", "12", "finished", "one"]
    assert rows[2].split() == ["no", "x", "–", "–", "failed", "–"]
    assert rows[3].split() == ["3", "x", "0.25", "9", "finished", "three"]
    assert "reward: mean over the last steps; higher is better" in rows
    assert "best: a=1 +b=x, in o/rl/one" in rows
    assert rows[-2:] == [
        "failed: a=2 +b=x: Error: no room; its log: l1",
        "failed: a=no +b=x: a: found 'no', expected a number",
    ]


def test_csv_has_the_figures_as_they_are() -> None:
    rows = list(csv.DictReader(sweep_csv(RESULTS, "reward").splitlines()))
    assert [row["a"] for row in rows] == ["1", "2", "no", "3"]
    assert (rows[0]["reward"], rows[0]["low"], rows[0]["high"]) == ("0.5", "0.4", "0.6")
    assert (rows[1]["reward"], rows[1]["reason"]) == ("", "Error: no room")

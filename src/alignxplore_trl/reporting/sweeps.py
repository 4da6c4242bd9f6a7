"""What the points of a sweep came to: one file each, and a table of all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alignxplore_trl.reporting.results import Figure
from alignxplore_trl.reporting.tables import TableStyle, render_table
from alignxplore_trl.run.folder import write_json_atomic

RESULT_FILE = "result.json"
_ABSENT = "–"


@dataclass(frozen=True)
class PointResult:
    """One point of a sweep.

    Attributes:
        overrides: what it was told, and no other point.
        state: `unfinished` where it left no result.
        figure: its metric with a 95 % interval, where there is one.
        seconds: wall time of its commands, those that found finished runs included.
        run: folder of its training; `None` where its overrides can't be composed.
        reason: why it failed.
        log: what its commands wrote.
    """

    overrides: tuple[str, ...]
    state: Literal["finished", "failed", "unfinished"]
    figure: Figure | None = None
    seconds: float | None = None
    run: str | None = None
    reason: str | None = None
    log: str | None = None

    @property
    def label(self) -> str:
        """The point in words: its overrides."""
        return " ".join(self.overrides)

    @property
    def metric(self) -> float | None:
        """What it is worth, of a finished point."""
        return None if self.figure is None else self.figure.value


def write_result(folder: Path, result: PointResult) -> None:
    """Leave a point's result in its folder."""
    write_json_atomic(folder / RESULT_FILE, asdict(result))


def read_result(folder: Path) -> PointResult | None:
    """The result that a point left; `None` where it left none."""
    file = folder / RESULT_FILE
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text())
    values["overrides"] = tuple(values["overrides"])
    figure = values["figure"]
    return PointResult(**{**values, "figure": None if figure is None else Figure(**figure)})


def read_results(folder: Path, points: Sequence[tuple[str, ...]]) -> list[PointResult]:
    """The results of a sweep in the order of its points.

    Args:
        folder: holds a folder for each point, named by its number.
        points: those that were to be tried, as far as this is known.
    """
    folders = [each for each in folder.glob("*") if each.name.isdecimal()]
    found = [read_result(each) for each in sorted(folders, key=lambda each: int(each.name))]
    results = [each for each in found if each is not None]
    there = {each.overrides for each in results}
    return results + [PointResult(each, "unfinished") for each in points if each not in there]


def best_of(
    results: Sequence[PointResult], direction: Literal["maximise", "minimise"]
) -> PointResult | None:
    """The finished point with the best metric, the first of equals; `None` if none finished."""
    worth = {each: each.metric for each in results if each.metric is not None}
    choose = max if direction == "maximise" else min
    return choose(worth, key=lambda each: worth[each], default=None)


def sweep_text(
    results: Sequence[PointResult],
    metric: str,
    measured: str,
    direction: Literal["maximise", "minimise"],
    style: TableStyle,
) -> str:
    """The table of a sweep, the best point, and why points failed.

    Args:
        results: of all points.
        metric: its name.
        measured: what it is, in words.
        direction: which is the best.
        style: of the table.
    """
    keys = _keys(results)
    rows = [
        [
            *(_values(each).get(key, _ABSENT) for key in keys),
            _figure_in_words(each.figure),
            _ABSENT if each.seconds is None else f"{each.seconds:.0f}",
            each.state,
            _ABSENT if each.run is None else Path(each.run).name,
        ]
        for each in results
    ]
    headers = [*keys, metric, "seconds", "state", "run"]
    better = {"maximise": "higher", "minimise": "lower"}[direction]
    lines = [render_table(rows, headers, style), "", f"{metric}: {measured}; {better} is better"]
    best = best_of(results, direction)
    if best is not None:
        lines.append(f"best: {best.label}, in {best.run}")
    lines += [
        f"failed: {each.label}: {each.reason}" + (f"; its log: {each.log}" if each.log else "")
        for each in results
        if each.state == "failed"
    ]
    return "\n".join(lines)


def sweep_csv(results: Sequence[PointResult], metric: str) -> str:
    """The same as CSV: one row for each point, figures as they are."""
    keys = _keys(results)
    names = (metric, "low", "high", "seconds", "state", "run", "reason", "log")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*keys, *names])
    for each in results:
        values = [_values(each).get(key) for key in keys]
        figure = each.figure or Figure(None)
        measured = [figure.value, figure.low, figure.high, each.seconds]
        table.writerow([*values, *measured, each.state, each.run, each.reason, each.log])
    return text.getvalue()


def _keys(results: Sequence[PointResult]) -> list[str]:
    return list(dict.fromkeys(key for each in results for key in _values(each)))


def _values(result: PointResult) -> dict[str, str]:
    pairs = (override.partition("=") for override in result.overrides)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _figure_in_words(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return _ABSENT
    value = f"{figure.value:.4g}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({figure.low:.4g}–{figure.high:.4g})"

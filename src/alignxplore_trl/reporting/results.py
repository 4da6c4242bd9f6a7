"""Reading the figures of evaluations back from `summary.json` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval; what could not be estimated is `None`."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, order=True)
class FigureKey:
    """Where a figure stands: `metric/benchmark/judge/method/setting`."""

    metric: str
    benchmark: str
    judge: str
    method: str
    setting: str


def read_figures(summary: Mapping[str, Any]) -> dict[FigureKey, Figure]:
    """The figures among a summary's keys, in the order of the file; run facts are passed over."""
    return {
        FigureKey(*parts): Figure(value, summary.get(f"{key}/low"), summary.get(f"{key}/high"))
        for key, value in summary.items()
        if len(parts := key.split("/")) == 5
    }


def names_of(figures: Sequence[Mapping[FigureKey, Figure]], metric: str) -> list[FigureKey]:
    """Keys of a metric that occur in any of several evaluations, each once, in order."""
    return list(dict.fromkeys(key for each in figures for key in each if key.metric == metric))

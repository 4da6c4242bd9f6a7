"""Finished evaluations as they stand on disk, for the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.reporting.results import Figure, FigureKey, names_of, read_figures
from alignxplore_trl.reporting.tables import mean_of
from alignxplore_trl.run.environment import read_environment
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.run.folder import read_config, read_summary

Figures = Mapping[FigureKey, Figure]

# The columns that the report reads, by file. `groups` may be missing: not every source of cases
# knows their users' directions.
_COLUMNS: Mapping[str, Sequence[str]] = {
    "verdicts": (
        "benchmark", "metric", "judge", "method", "setting", "case_id", "correct", "p_correct",
        "margin",
    ),
    "descriptions": (
        "benchmark", "method", "setting", "case_id", "completion", "reasoning", "description",
        "earlier", "format_problem", "dropped_signals", "shortened_texts",
    ),
    "cases": (
        "benchmark", "case_id", "user_id", "signals", "target", "directions", "description",
    ),
    "groups": (
        "benchmark", "metric", "judge", "method", "setting", "dimension", "pole", "cases",
        "accuracy", "low", "high",
    ),
}  # fmt: skip
_OPTIONAL = ("groups",)
# The stages of a training in their order, by the beginnings of their policies' names.
STAGES: Mapping[str, str] = {"backbone": "backbone", "cold start": "cold_start_", "RL": "rl_"}
_NOT_OF_A_STAGE = "unverified"


@dataclass(frozen=True)
class FinishedEvaluation:
    """The folder of a finished evaluation.

    Attributes:
        folder: `outputs/evaluate/<run>`.
        label: its name among the others of a report, such as `seed 0`.
    """

    folder: Path
    label: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What its `summary.json` says."""
        return read_summary(self.folder)

    @cached_property
    def figures(self) -> Figures:
        """The figures in it."""
        return read_figures(self.summary)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What it was started with."""
        return read_config(self.folder)

    @cached_property
    def environment(self) -> dict[str, str]:
        """Versions, commit and machine, by name."""
        return read_environment(self.folder)

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        where: Sequence[tuple[str, str, Any]] | None = None,
    ) -> pa.Table:
        """One of its Parquet files, without rows where it isn't there.

        Args:
            name: verdicts, descriptions, cases or groups.
            columns: those to read; without them, all that a report reads.
            where: conditions on rows, as pyarrow's `filters` reads them.
        """
        path, chosen = self._path(name), list(columns or _COLUMNS[name])
        if not path.is_file():
            return pa.table({column: [] for column in chosen})
        return pq.read_table(path, columns=chosen, filters=where)

    def problems(self) -> list[str]:
        """What keeps it from being reported: files or columns that it lacks."""
        found = []
        for name, columns in _COLUMNS.items():
            path = self._path(name)
            if not path.is_file():
                if name not in _OPTIONAL:
                    found.append(f"{path}: no such file; {_REMEDY}")
                continue
            try:
                names = pq.read_schema(path).names
            except pa.ArrowInvalid:
                found.append(f"{path}: damaged; delete its folder, and evaluate again")
                continue
            if lacking := [column for column in columns if column not in names]:
                found.append(f"{path}: no column {', '.join(lacking)} found; {_REMEDY}")
        if not any(key.metric == "acc_jud" for key in self.figures):
            found.append(f"{self.folder / 'summary.json'}: no accuracy of a judge found; {_REMEDY}")
        return found

    def _path(self, name: str) -> Path:
        return self.folder / "completions" / f"{name}.parquet"


@dataclass(frozen=True)
class Evaluations:
    """What all sections are made from.

    Attributes:
        finished: the evaluations, one per seed.
        methods: those whose descriptions and cases are shown one by one.
        charts: the folder of the PNG files.
    """

    finished: Sequence[FinishedEvaluation]
    methods: Sequence[MethodSetting]
    charts: Path

    @property
    def figures(self) -> list[Figures]:
        """The figures of each evaluation."""
        return figures_of(self.finished)

    @property
    def benchmarks(self) -> list[str]:
        """All of them, the most important one first."""
        return benchmarks_of(self.figures)


_REMEDY = (
    "the evaluation was made by another version, or files were deleted: delete its folder, and "
    "evaluate again"
)


def open_evaluations(folders: Sequence[Path]) -> list[FinishedEvaluation]:
    """Finished evaluations, such as one per seed, in the order of their folders.

    Raises:
        UserError: one lacks what a report is made of, or two are of one seed.
    """
    problems = Problems()
    seeds = [read_config(folder).get("seed", 0) for folder in folders]
    for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        problems.add(
            f"upstream.evaluate: {seeds.count(seed)} evaluations of seed {seed} found, expected "
            "one per seed; their figures would be averaged as if they were of different users"
        )
    evaluations = [
        FinishedEvaluation(folder, f"seed {seed}")
        for folder, seed in zip(folders, seeds, strict=True)
    ]
    problems.found += [problem for each in evaluations for problem in each.problems()]
    problems.raise_if_any()
    return evaluations


def figures_of(evaluations: Sequence[FinishedEvaluation]) -> list[Figures]:
    """The figures of each."""
    return [each.figures for each in evaluations]


def benchmarks_of(figures: Sequence[Figures]) -> list[str]:
    """All benchmarks with an accuracy; the first is what a page shows first."""
    return list(dict.fromkeys(key.benchmark for key in names_of(figures, "acc_jud")))


def judges_of(figures: Sequence[Figures]) -> list[str]:
    """All judges; the first is the one that orders methods."""
    return list(dict.fromkeys(key.judge for key in names_of(figures, "acc_jud")))


def methods_of(figures: Sequence[Figures], benchmark: str) -> list[MethodSetting]:
    """The methods of a benchmark, each in its settings."""
    keys = [key for key in names_of(figures, "acc_jud") if key.benchmark == benchmark]
    return list(dict.fromkeys(MethodSetting(key.method, key.setting) for key in keys))


def mean_figure(figures: Sequence[Figures], key: FigureKey) -> Figure:
    """A figure over all evaluations: of one with its interval, of several lowest and highest."""
    found = [each[key] for each in figures if key in each]
    if len(found) == 1:
        return found[0]
    values = [figure.value for figure in found if figure.value is not None]
    return Figure(mean_of(found), min(values, default=None), max(values, default=None))


def range_in_words(seeds: int) -> str:
    """What lies between the low and the high of a figure over so many evaluations."""
    return "95 % interval" if seeds == 1 else f"lowest and highest of {seeds} seeds"


def stages_of(figures: Sequence[Figures], benchmark: str) -> dict[str, MethodSetting]:
    """The best policy of each stage under the first judge, as far as there are any."""
    judge = judges_of(figures)[0]

    def accuracy(name: MethodSetting) -> float:
        key = FigureKey("acc_jud", benchmark, judge, name.method, name.setting)
        return mean_figure(figures, key).value or 0.0

    found = {}
    for stage, start in STAGES.items():
        policies = [
            name
            for name in methods_of(figures, benchmark)
            if name.method.startswith(start) and _NOT_OF_A_STAGE not in name.method
        ]
        if policies:
            found[stage] = max(policies, key=accuracy)
    return found


def read_methods(
    asked: Sequence[str] | None, figures: Sequence[Figures], benchmark: str
) -> list[MethodSetting]:
    """The methods whose cases are shown: those asked for, else the best of each stage.

    Args:
        asked: `method/setting` each.
        figures: of each evaluation.
        benchmark: whose methods they are.

    Raises:
        UserError: one of them wasn't evaluated.
    """
    if asked is None:
        return list(stages_of(figures, benchmark).values())
    known = {f"{name.method}/{name.setting}": name for name in methods_of(figures, benchmark)}
    problems = [
        f"page.methods: {name!r} found, expected methods in their settings that were evaluated on "
        f"{benchmark}: {', '.join(known)}"
        for name in asked
        if name not in known
    ]
    if problems:
        raise UserError(problems)
    return [known[name] for name in asked]


def signals_read(setting: str) -> tuple[bool, int] | None:
    """Whether a setting reads in rounds, and how many signals it reads altogether.

    `streaming4` is the first round of a streaming run; `None` for a name that isn't a setting's.
    """
    match = re.fullmatch(r"(base|streaming)(\d+(?:\+\d+)*)", setting)
    return None if match is None else (match[1] == "streaming", sum(map(int, match[2].split("+"))))


def over_number(
    figures: Sequence[Figures], keys: Sequence[FigureKey], number: Callable[[FigureKey], float]
) -> list[tuple[float, Figure]]:
    """Figures over all evaluations, in the order of a number that their keys have."""
    points = [(number(key), mean_figure(figures, key)) for key in keys]
    return sorted(points, key=lambda point: point[0])

"""What an evaluation leaves in its run folder: files of rows, tables, a chart, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.files import (
    write_cases,
    write_descriptions,
    write_groups,
    write_verdicts,
)
from alignxplore_trl.evaluation.groups import GroupRow, Groups
from alignxplore_trl.evaluation.scoring import DescriptionRow, Scores, VerdictRow
from alignxplore_trl.evaluation.summary import Summary
from alignxplore_trl.evaluation.win_rate import ComparedReplies, write_win_rates
from alignxplore_trl.reporting.charts import accuracy_chart
from alignxplore_trl.reporting.results import names_of, read_figures
from alignxplore_trl.reporting.tables import accuracy_table, difference_table, win_rate_lines
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.signals import PreferenceCase


class EvaluationFiles:
    """Collects what came of each benchmark, and writes all of it at the end.

    Args:
        folder: of the run.
        seed: of the run, for the heading of a column.

    Attributes:
        summary: the figures of all benchmarks.
    """

    def __init__(self, folder: RunFolder, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.summary: Summary = {}
        self._cases: dict[str, list[PreferenceCase]] = {}
        self._verdicts: list[VerdictRow] = []
        self._descriptions: list[DescriptionRow] = []
        self._groups: list[GroupRow] = []
        self._compared: list[ComparedReplies] = []
        self._changes: list[dict[str, Any]] = []

    def add(
        self,
        benchmark: Benchmark,
        scores: Scores,
        groups: Groups,
        compared: Sequence[ComparedReplies],
        summary: Summary,
    ) -> None:
        """What came of one benchmark."""
        self._cases[benchmark.name] = list(benchmark.cases)
        self._verdicts += scores.verdicts
        self._descriptions += scores.descriptions
        self._groups += groups.rows
        self._compared += compared
        histories = benchmark.histories
        self._changes += [{"benchmark": benchmark.name, **row} for row in histories.changes]
        changed = {f"robustness/{benchmark.name}/{name}": n for name, n in histories.counts.items()}
        self.summary |= {**changed, **summary}

    def write(self) -> None:
        """The files of rows, the chart of the first benchmark, and the tables of all."""
        rows = self.folder.completions
        rows.mkdir(parents=True, exist_ok=True)
        write_cases(rows / "cases.parquet", self._cases)
        write_descriptions(rows / "descriptions.parquet", self._descriptions)
        write_groups(rows / "groups.parquet", self._groups)
        write_verdicts(rows / "verdicts.parquet", self._verdicts)
        if self._compared:
            write_win_rates(rows / "win_rates.parquet", self._compared)
        if self._changes:
            pd.DataFrame(self._changes).to_parquet(rows / "variations.parquet")
        accuracy_chart(self.summary, next(iter(self._cases)), self.folder.path / "accuracy.png")
        write_text_atomic(self.folder.table, "\n\n".join(map(self._tables, self._cases)) + "\n")

    def _tables(self, benchmark: str) -> str:
        tables = [f"{benchmark}", accuracy_table([self.summary], benchmark)]
        figures = read_figures(self.summary)
        if any(key.benchmark == benchmark for key in names_of([figures], "acc_jud_difference")):
            tables.append(difference_table({f"seed {self.seed}": self.summary}, benchmark))
        return "\n".join([*tables, *win_rate_lines(self.summary, benchmark)])

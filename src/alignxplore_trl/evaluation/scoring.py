"""From descriptions to verdicts: does a model that reads the description pick the right reply?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import Table, records
from alignxplore_trl.judging.protocol import JudgedPair
from alignxplore_trl.rewards import DescriptionReward
from alignxplore_trl.run.progress import progress

# What a killed evaluation asks again, at most.
_PAIRS_AT_ONCE = 2000


def verdicts_table(folder: Path) -> Table:
    """One row per metric, benchmark, judge (or generator), method, setting and case.

    `value` is what the reward measures, such as a judge's probability of the right reply, both
    orders averaged; `correct` is the reward, R_jud or R_gen times R_format. Both are missing where
    there was no answer: such a row is left out of the accuracy, and counted.
    """
    return Table(folder, "verdicts", "metric", "judge", correct="Float64", value="Float64")


def score(
    metric: str,
    judge: str,
    reward: DescriptionReward,
    descriptions: pd.DataFrame,
    benchmarks: Sequence[Benchmark],
    verdicts: Table,
) -> None:
    """Reward the descriptions that have no verdict of this judge yet, each distinct one once.

    A method that decides by itself has the same verdicts under every judge, so that tables compare
    it with the others; under a generator (`acc_gen`) it has none. Neither have methods without a
    description: both sides of R_gen's comparison are then the same, a tie on every case.
    """
    if metric == "acc_gen":
        tried = descriptions.description.notna() | descriptions.problem.notna()
        descriptions = descriptions[tried]
    asked = descriptions.assign(metric=metric, judge=judge)
    # Case by case, so that descriptions of the same case are asked about together.
    new = records(verdicts.lacking(asked, "correct").sort_values("case_id", kind="stable"))
    for benchmark in benchmarks:
        targets = {case.case_id: case.target for case in benchmark.scored}
        rows = [r for r in new if r["benchmark"] == benchmark.name and r["case_id"] in targets]
        parts = range(0, len(rows), _PAIRS_AT_ONCE)
        for start in progress(parts, f"{metric} of {benchmark.name} by {judge}"):
            part = rows[start : start + _PAIRS_AT_ONCE]
            for row in part:
                target = targets[row["case_id"]]
                pair = target.post, row["description"], target.chosen, target.rejected
                row["pair"] = JudgedPair(row["case_id"], *pair)
            open_rows = [r for r in part if r["problem"] is None and not r["decided"]]
            pairs: list[JudgedPair] = list(dict.fromkeys(row["pair"] for row in open_rows))
            values = dict(zip(pairs, reward.measure(pairs), strict=True))
            for row in part:
                value = row["probability"] if row["decided"] else values.get(row["pair"])
                correct = None if value is None else reward.score(value)
                if row["problem"] is not None:
                    value, correct = None, 0.0
                row |= {"value": value, "correct": correct}
            verdicts.add(part)

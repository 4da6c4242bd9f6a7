"""From descriptions to verdicts: does a model that reads the description pick the right reply?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import Table, records, rows_at
from alignxplore_trl.judging.protocol import JudgedPair
from alignxplore_trl.rewards import DescriptionReward
from alignxplore_trl.run.progress import progress

# What a killed evaluation asks again, at most.
_PAIRS_AT_ONCE = 2000
_PLACE = ["benchmark", "method", "setting", "case_id"]


def verdicts_table(folder: Path) -> Table:
    """One row per metric, benchmark, judge (or generator), method, setting and case.

    `value` is what the reward measures, such as a judge's probability of the right reply, both
    orders averaged; `correct` is the reward, R_jud or R_gen times R_format. Both are missing where
    there was no answer: such a row is left out of the accuracy, and counted.
    """
    types = {"unit": "string", "correct": "Float64", "value": "Float64"}
    return Table(folder / "verdicts.parquet", ("metric", "judge", *_PLACE), types)


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
    description: both sides of R_gen's comparison are then the same, a tie on every case, whose
    accuracy of 0 would say nothing.
    """
    if metric == "acc_gen":
        tried = descriptions.description.notna() | descriptions.problem.notna()
        descriptions = descriptions[tried]
    known = rows_at(verdicts.rows, metric=metric, judge=judge).dropna(subset=["correct"])
    is_known = pd.MultiIndex.from_frame(descriptions[_PLACE]).isin(
        pd.MultiIndex.from_frame(known[_PLACE])
    )
    for benchmark in benchmarks:
        cases = {case.case_id: case for case in benchmark.scored}
        new = rows_at(descriptions[~is_known], benchmark=benchmark.name)
        new = new[new.case_id.isin(cases)].sort_values("case_id", kind="stable")
        rows = records(new)
        # Case by case, so that descriptions of the same case are asked about together.
        parts = range(0, len(rows), _PAIRS_AT_ONCE)
        for start in progress(parts, f"{metric} of {benchmark.name} by {judge}", len(parts)):
            part = rows[start : start + _PAIRS_AT_ONCE]
            pairs = [_pair(row, cases[row["case_id"]]) for row in part]
            distinct = list(dict.fromkeys(pair for pair in pairs if pair is not None))
            answers = reward.measure(dict(enumerate(distinct)), {})
            values = dict(zip(distinct, answers, strict=True))
            at = {"metric": metric, "judge": judge}
            both = zip(part, pairs, strict=True)
            verdicts.add(
                [{**row, **at, **_verdict(row, pair, values, reward)} for row, pair in both]
            )


def _pair(row: Mapping[str, Any], case: Case) -> JudgedPair | None:
    """What to ask of a description; `None` of a malformed completion, and of a decision."""
    if row["problem"] is not None or row["decided"]:
        return None
    target = case.target
    return JudgedPair(case.case_id, target.post, row["description"], target.chosen, target.rejected)


def _verdict(
    row: Mapping[str, Any],
    pair: JudgedPair | None,
    values: Mapping[JudgedPair, float | None],
    reward: DescriptionReward,
) -> dict[str, float | None]:
    if row["problem"] is not None:
        return {"value": None, "correct": 0.0}
    value = row["probability"] if pair is None else values[pair]
    return {"value": value, "correct": None if value is None else reward.score(value)}

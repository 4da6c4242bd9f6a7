"""From descriptions to verdicts: does a model that reads the description pick the right reply?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import Table
from alignxplore_trl.judging.protocol import Generator, Judge, JudgedPair, preferences
from alignxplore_trl.rewards import GeneratedReward
from alignxplore_trl.run.progress import progress

# What a killed evaluation asks again, at most.
_PAIRS_AT_ONCE = 2000

Ask = Callable[[Sequence[JudgedPair]], Sequence[float | None]]


def verdicts_table(folder: Path) -> Table:
    """One row per metric, benchmark, judge (or generator), method, setting and case.

    `value` is a judge's probability of the right reply, both orders averaged, or by how many nats the
    description helps a generator more to that reply than to the other; `correct` is R_jud or R_gen
    times R_format: 1 above one half (above 0), and 0 for a tie and for a malformed completion. Both
    are missing where there was no answer; such a row is left out of the accuracy, and counted.
    """
    return Table(
        folder / "verdicts.parquet",
        ("metric", "benchmark", "judge", "method", "setting", "case_id"),
        {"unit": "string", "correct": "Float64", "value": "Float64"},
    )


def judge_all(
    name: str,
    judge: Judge,
    descriptions: pd.DataFrame,
    benchmarks: Sequence[Benchmark],
    verdicts: Table,
) -> None:
    """ACC_jud: put before a judge what it has given no verdict on.

    A method that decides by itself gets the same verdicts under every judge, so that tables compare
    it with the others.
    """

    def ask(pairs: Sequence[JudgedPair]) -> list[float | None]:
        return preferences(judge, pairs, "both", seed=0)

    _score("acc_jud", name, ask, 0.5, descriptions, benchmarks, verdicts)


def generate_all(
    name: str,
    generator: Generator,
    prompts: str,
    descriptions: pd.DataFrame,
    benchmarks: Sequence[Benchmark],
    verdicts: Table,
) -> None:
    """ACC_gen, likewise.

    Methods that decide have none. Neither have methods without a description: both sides of R_gen's
    comparison are then the same, a tie on every case, whose accuracy of 0 would say nothing.
    """
    described = descriptions[descriptions.description.notna() | descriptions.problem.notna()]
    reward = GeneratedReward(generator, prompts)

    def ask(pairs: Sequence[JudgedPair]) -> list[float | None]:
        return reward.measure(dict(enumerate(pairs)), {})

    _score("acc_gen", name, ask, 0.0, described, benchmarks, verdicts)


def _score(
    metric: str,
    judge: str,
    ask: Ask,
    threshold: float,
    descriptions: pd.DataFrame,
    benchmarks: Sequence[Benchmark],
    verdicts: Table,
) -> None:
    known = verdicts.at(metric=metric, judge=judge).dropna(subset=["correct"])
    keys = ["benchmark", "method", "setting", "case_id"]
    answered = pd.MultiIndex.from_frame(known[keys])
    new = descriptions[~pd.MultiIndex.from_frame(descriptions[keys]).isin(answered)]
    for benchmark in benchmarks:
        cases = {case.case_id: case for case in benchmark.scored}
        of_it = new[(new.benchmark == benchmark.name) & new.case_id.isin(cases)]
        rows = of_it.astype(object).where(of_it.notna(), None).to_dict("records")
        questions = [_question(row, cases[row["case_id"]]) for row in rows]
        # Case by case, so that those which share a text are asked together; each once.
        distinct = sorted(
            dict.fromkeys(own for own in questions if own is not None), key=lambda own: own.key
        )
        parts = range(0, max(1, len(distinct)), _PAIRS_AT_ONCE)
        for start in progress(parts, f"{metric} of {benchmark.name} under {judge}", len(parts)):
            part = distinct[start : start + _PAIRS_AT_ONCE]
            values: dict[JudgedPair | None, float | None] = dict(
                zip(part, ask(part) if part else [], strict=True)
            )
            verdicts.add(
                [
                    _verdict(metric, judge, row, values.get(question), threshold)
                    for row, question in zip(rows, questions, strict=True)
                    if question in values or (question is None and start == 0)
                ]
            )


def _question(row: Mapping[str, object], case: Case) -> JudgedPair | None:
    """What to ask of a description; `None` of a malformed completion, and of a decision."""
    if row["problem"] is not None or row["decided"]:
        return None
    description, target = row["description"], case.target
    text = None if description is None else str(description)
    return JudgedPair(case.case_id, target.post, text, target.chosen, target.rejected)


def _verdict(
    metric: str, judge: str, row: Mapping[str, object], value: float | None, threshold: float
) -> dict[str, object]:
    if row["decided"]:
        value = None if row["probability"] is None else float(str(row["probability"]))
    right = None if value is None else float(value > threshold)
    return {
        "metric": metric,
        "judge": judge,
        **{name: row[name] for name in ("benchmark", "method", "setting", "case_id", "unit")},
        "correct": 0.0 if row["problem"] is not None else right,
        "value": value,
    }


def asked_for(
    descriptions: pd.DataFrame, methods: Collection[str], benchmarks: Sequence[Benchmark]
) -> pd.DataFrame:
    """The rows of these methods and benchmarks."""
    names = [benchmark.name for benchmark in benchmarks]
    return descriptions[descriptions.method.isin(methods) & descriptions.benchmark.isin(names)]

"""Win rates: which of two methods' replies does a judge that knows the true preference prefer?

An accuracy asks whether a description helps to tell two given replies apart; a win rate asks
whether it helps a model to write a better one (METHOD: Evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import Table, records, rows_at
from alignxplore_trl.inference.writers import Writer
from alignxplore_trl.judging.protocol import Judge, Question, Verdict
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.prompts import Prompts

Place = tuple[str, str]  # a method, and its setting
_KEYS = ("benchmark", "method", "setting", "case_id")


def replies_table(folder: Path) -> Table:
    """The reply to each case's post that was written under a method's description."""
    types = {"unit": "string", "reply": "string"}
    return Table(folder / "replies.parquet", _KEYS, types)


def wins_table(folder: Path) -> Table:
    """What a judge made of two methods' replies; `method` and `setting` are `<first>-<second>`.

    `score` is 1 where it prefers the first method's reply in both orders, 0 where it prefers the
    other's in both, and a half for a tie; missing where there was no answer. The probabilities are
    those of the first method's reply, shown first and second.
    """
    numbers = dict.fromkeys(("score", "p_shown_first", "p_shown_second"), "Float64")
    return Table(folder / "wins.parquet", ("judge", *_KEYS), {"unit": "string", **numbers})


def write_replies(
    writer: Writer,
    prompts: Prompts,
    pairs: Sequence[tuple[Place, Place]],
    descriptions: pd.DataFrame,
    cases: Mapping[str, Sequence[Case]],
    table: Table,
    seed: int,
) -> None:
    """Write the replies to the cases of each benchmark that aren't there, for all places of pairs.

    The prompt is the one that R_gen reads log-probabilities behind. Under a malformed completion
    the reply is written without a description: that is what its user would get.
    """
    for benchmark, own in cases.items():
        for method, setting in dict.fromkeys(place for pair in pairs for place in pair):
            where = {"benchmark": benchmark, "method": method, "setting": setting}
            texts = _column(descriptions, "description", **where)
            known = _column(table.rows, "reply", **where)
            new = [case for case in own if case.case_id in texts.keys() - known.keys()]
            asked = [
                prompts.render("reply", post=case.target.post, description=texts[case.case_id])
                for case in new
            ]
            if new:
                say(f"win rate: {len(new)} replies for {method}, {setting}, {benchmark}")
                answers = writer.write(asked, 1, seed)
                rows = [
                    {**where, **_named(case), "reply": written.text.strip()}
                    for case, [written] in zip(new, answers, strict=True)
                    if written is not None
                ]
                table.add(rows)


def compare_replies(
    name: str,
    judge: Judge,
    pairs: Sequence[tuple[Place, Place]],
    cases: Mapping[str, Sequence[Case]],
    replies: Table,
    table: Table,
) -> None:
    """Show a judge the true description and both replies, in both orders, where it hasn't yet."""
    for benchmark, own in cases.items():
        for pair in pairs:
            method, setting = ("-".join(both) for both in zip(*pair, strict=True))
            where = {"judge": name, "benchmark": benchmark, "method": method, "setting": setting}
            known = _column(table.rows.dropna(subset=["score"]), "score", **where)
            one, other = (
                _column(replies.rows, "reply", benchmark=benchmark, method=own[0], setting=own[1])
                for own in pair
            )
            ids = one.keys() & other.keys() - known.keys()
            new = [(c, one[c.case_id], other[c.case_id]) for c in own if c.case_id in ids]
            questions = [
                Question(case.target.post, case.description, *shown)
                for case, a, b in new
                for shown in ((a, b), (b, a))
                if a != b  # Equal ones are a tie, which no judge is asked about.
            ]
            verdicts = iter(judge.judge(questions) if questions else [])
            rows = [
                {**where, **_named(case)}
                | ({"score": 0.5} if a == b else _outcome(next(verdicts), next(verdicts)))
                for case, a, b in new
            ]
            table.add(rows)


def draw_cases(benchmarks: Sequence[Benchmark], count: int | None) -> dict[str, list[Case]]:
    """The first cases of each benchmark whose true description is known, by its name."""
    return {
        each.name: [case for case in each.scored if case.description is not None][:count]
        for each in benchmarks
    }


def _outcome(shown_first: Verdict | None, shown_second: Verdict | None) -> dict[str, float]:
    if shown_first is None or shown_second is None:
        return {}
    one, other = shown_first.probability_a, 1.0 - shown_second.probability_a
    score = 1.0 if min(one, other) > 0.5 else 0.0 if max(one, other) < 0.5 else 0.5
    return {"score": score, "p_shown_first": one, "p_shown_second": other}


def _column(rows: pd.DataFrame, column: str, **where: str) -> dict[str, Any]:
    """The values of a column by case, of the rows at one place."""
    return {row["case_id"]: row[column] for row in records(rows_at(rows, **where))}


def _named(case: Case) -> dict[str, str]:
    return {"case_id": case.case_id, "unit": case.unit}

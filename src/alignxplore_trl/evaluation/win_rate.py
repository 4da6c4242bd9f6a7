"""Win rates: which of two methods' replies does a judge that knows the true preference prefer?

An accuracy asks whether a description helps to tell two given replies apart; a win rate asks
whether it helps a model to write a better one (METHOD: Evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import Table, rows_at
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
    """Write the replies that aren't there yet.

    The prompt is the one that R_gen reads log-probabilities behind. Under a malformed completion
    the reply is written without a description: that is what its user would get.

    Args:
        writer: the model that replies.
        prompts: the templates.
        pairs: places that are compared.
        descriptions: rows of `descriptions_table`.
        cases: those that are replied to, by benchmark; see `draw_cases`.
        table: that of `replies_table`.
        seed: of sampling, the same for all methods.
    """
    for benchmark, own in cases.items():
        for method, setting in dict.fromkeys(place for pair in pairs for place in pair):
            where = {"benchmark": benchmark, "method": method, "setting": setting}
            known = set(rows_at(table.rows, **where).case_id)
            rows = rows_at(descriptions, **where).set_index("case_id").description
            texts = rows.astype(object).where(rows.notna(), None).to_dict()
            new = [case for case in own if case.case_id in texts.keys() - known]
            if new:
                say(f"win rate: {len(new)} replies for {method}, {setting}, {benchmark}")
            asked = [
                prompts.render("reply", post=case.target.post, description=texts[case.case_id])
                for case in new
            ]
            answers = writer.write(asked, 1, seed) if new else []
            table.add(
                [
                    {**where, **_named(case), "reply": written.text.strip()}
                    for case, [written] in zip(new, answers, strict=True)
                    if written is not None
                ]
            )


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
            known = set(rows_at(table.rows, **where).dropna(subset=["score"]).case_id)
            one, other = (
                rows_at(replies.rows, benchmark=benchmark, method=own[0], setting=own[1])
                .set_index("case_id")
                .reply.to_dict()
                for own in pair
            )
            new = [case for case in own if case.case_id in one.keys() & other.keys() - known]
            both = [(one[case.case_id], other[case.case_id]) for case in new]
            questions = [
                Question(case.target.post, case.description, *shown)
                for case, (a, b) in zip(new, both, strict=True)
                for shown in ((a, b), (b, a))
                if a != b  # Equal ones are a tie, which no judge is asked about.
            ]
            verdicts = iter(judge.judge(questions) if questions else [])
            scores = [
                {"score": 0.5} if a == b else _outcome(next(verdicts), next(verdicts))
                for a, b in both
            ]
            table.add(
                [{**where, **_named(c), **score} for c, score in zip(new, scores, strict=True)]
            )


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


def _named(case: Case) -> dict[str, str]:
    return {"case_id": case.case_id, "unit": case.unit}

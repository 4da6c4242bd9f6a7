"""Win rates: which of two methods' replies does a judge that knows the true preference prefer?

An accuracy asks whether a description helps to tell two given replies apart; a win rate asks
whether it helps a model to write a better one (METHOD: Evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pandas as pd

from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.kept import KEY, PLACE, Table, records
from alignxplore_trl.inference.writers import Writer
from alignxplore_trl.judging.protocol import Judge, Question, Verdict
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.prompts import Prompts

Pair = tuple[tuple[str, str], tuple[str, str]]  # Two methods, each with its setting.
_CASE = ["benchmark", "case_id", "unit", "post", "truth"]


def replies_table(folder: Path) -> Table:
    """The reply to each case's post that was written under a method's description."""
    return Table(folder, "replies", reply="string")


def wins_table(folder: Path) -> Table:
    """What a judge made of two methods' replies; `method` and `setting` are `<first>-<second>`.

    `score` is 1 where it prefers the first method's reply in both orders, 0 where it prefers the
    other's in both, and a half for a tie; missing where there was no answer. The probabilities are
    those of the first method's reply, shown first and second.
    """
    numbers = dict.fromkeys(("score", "p_shown_first", "p_shown_second"), "Float64")
    return Table(folder, "wins", "judge", **numbers)


def draw_cases(benchmarks: Sequence[Benchmark], count: int | None) -> pd.DataFrame:
    """The first cases of each benchmark whose true description is known."""
    known = [
        (each.name, case.case_id, case.unit, case.target.post, case.description)
        for each in benchmarks
        for case in [case for case in each.scored if case.description is not None][:count]
    ]
    return pd.DataFrame(known, columns=_CASE)


def write_replies(
    writer: Writer,
    prompts: Prompts,
    pairs: Sequence[Pair],
    descriptions: pd.DataFrame,
    cases: pd.DataFrame,
    table: Table,
    seed: int,
) -> None:
    """Write the replies to the cases of each benchmark that aren't there, for all places of pairs.

    The prompt is the one that R_gen reads log-probabilities behind. Under a malformed completion
    the reply is written without a description: that is what its user would get.
    """
    places = pd.DataFrame([place for pair in pairs for place in pair], columns=PLACE[1:])
    asked = cases.merge(places.drop_duplicates(), how="cross")
    new = table.lacking(asked.merge(descriptions[[*KEY, "description"]]), "reply")
    for place, own in new.groupby(PLACE, sort=False):
        say(f"win rate: {len(own)} replies for {', '.join(map(str, place))}")
        rows = records(own)
        texts = [
            prompts.render("reply", post=row["post"], description=row["description"])
            for row in rows
        ]
        answers = zip(rows, writer.write(texts, 1, seed), strict=True)
        table.add(row | {"reply": own.text.strip()} for row, [own] in answers if own is not None)


def compare_replies(
    name: str,
    judge: Judge,
    pairs: Sequence[Pair],
    cases: pd.DataFrame,
    replies: Table,
    table: Table,
) -> None:
    """Show a judge the true description and both replies, in both orders, where it hasn't yet."""
    case = ["benchmark", "case_id"]
    written = replies.rows.pivot(index=case, columns=["method", "setting"], values="reply")
    for pair in pairs:
        method, setting = ("-".join(names) for names in zip(*pair, strict=True))
        both = written.reindex(columns=list(pair)).set_axis(["first", "second"], axis=1).dropna()
        known = cases.join(both, on=case, how="inner")
        new = table.lacking(known.assign(judge=name, method=method, setting=setting), "score")
        rows = records(new)
        questions = [
            Question(row["post"], row["truth"], *shown)
            for row in rows
            for shown in permutations((row["first"], row["second"]))
            if row["first"] != row["second"]  # Equal ones are a tie, which no judge is asked about.
        ]
        verdicts = iter(judge.judge(questions) if questions else [])
        for row in rows:
            tied = row["first"] == row["second"]
            row |= {"score": 0.5} if tied else _outcome(next(verdicts), next(verdicts))
        table.add(rows)


def _outcome(shown_first: Verdict | None, shown_second: Verdict | None) -> dict[str, float]:
    if shown_first is None or shown_second is None:
        return {}
    one, other = shown_first.probability_a, 1.0 - shown_second.probability_a
    score = 1.0 if min(one, other) > 0.5 else 0.0 if max(one, other) < 0.5 else 0.5
    return {"score": score, "p_shown_first": one, "p_shown_second": other}

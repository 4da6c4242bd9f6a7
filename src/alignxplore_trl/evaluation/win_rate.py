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

Place = tuple[str, str]  # method, setting


class WinRates:
    """Replies that are written under descriptions, and what a judge makes of them.

    Attributes:
        replies: replies.parquet, one row per benchmark, method, setting and case.
        wins: wins.parquet, one row per benchmark, judge, comparison and case. `score` is 1 where the
            judge prefers the first method's reply in both orders, 0 where it prefers the other's in
            both, and a half for a tie; missing where there was no answer. The probabilities are
            those of the first method's reply, shown first and second.
    """

    def __init__(self, folder: Path) -> None:
        keys = ("benchmark", "method", "setting", "case_id")
        texts = {"unit": "string", "reply": "string"}
        self.replies = Table(folder / "replies.parquet", keys, texts)
        numbers = dict.fromkeys(("score", "p_shown_first", "p_shown_second"), "Float64")
        self.wins = Table(folder / "wins.parquet", ("judge", *keys), {"unit": "string", **numbers})

    def write(
        self,
        writer: Writer,
        prompts: str,
        pairs: Sequence[tuple[Place, Place]],
        descriptions: pd.DataFrame,
        benchmarks: Sequence[Benchmark],
        count: int | None,
        seed: int,
    ) -> None:
        """Write the replies that aren't there, to each case's post under each description.

        The prompt is the one that R_gen reads log-probabilities behind. Under a malformed completion
        the reply is written without a description: that is what its user would get.

        Args:
            writer: the model that replies.
            prompts: the prompt folder.
            pairs: methods that are compared.
            descriptions: rows of `descriptions_table`.
            benchmarks: whose cases are replied to.
            count: how many of those whose true description is known, the first ones.
            seed: of sampling, the same for all methods.
        """
        templates = Prompts(prompts)
        for benchmark in benchmarks:
            for method, setting in dict.fromkeys(place for pair in pairs for place in pair):
                where = {"benchmark": benchmark.name, "method": method, "setting": setting}
                own = rows_at(descriptions, where).set_index("case_id").description
                known = set(self.replies.at(**where).case_id)
                cases = [
                    case
                    for case in _with_truth(benchmark)[:count]
                    if case.case_id in own.index and case.case_id not in known
                ]
                if not cases:
                    continue
                say(f"win rate: {len(cases)} replies under {method}, {setting}, {benchmark.name}")
                asked = [
                    templates.render(
                        "reply",
                        post=case.target.post,
                        description=None if pd.isna(own[case.case_id]) else own[case.case_id],
                    )
                    for case in cases
                ]
                answers = writer.write(asked, 1, seed)
                self.replies.add(
                    [
                        {**where, "reply": written.text.strip(), **_named(case)}
                        for case, (written,) in zip(cases, answers, strict=True)
                        if written is not None
                    ]
                )

    def compare(
        self,
        name: str,
        judge: Judge,
        pairs: Sequence[tuple[Place, Place]],
        benchmarks: Sequence[Benchmark],
    ) -> None:
        """Show a judge the true description and both replies, in both orders, where it hasn't yet."""
        for benchmark in benchmarks:
            for first, second in pairs:
                method, setting = (f"{a}-{b}" for a, b in zip(first, second, strict=True))
                where = {"benchmark": benchmark.name, "method": method, "setting": setting}
                one, other = (self._replies(benchmark.name, place) for place in (first, second))
                answered = self.wins.at(judge=name, **where).dropna(subset=["score"])
                cases = [
                    case
                    for case in _with_truth(benchmark)
                    if case.case_id in one.keys() & other.keys() - set(answered.case_id)
                ]
                scores = _compare(judge, cases, one, other)
                self.wins.add(
                    [
                        {"judge": name, **where, **_named(case), **score}
                        for case, score in zip(cases, scores, strict=True)
                    ]
                )

    def _replies(self, benchmark: str, place: Place) -> dict[str, str]:
        own = self.replies.at(benchmark=benchmark, method=place[0], setting=place[1])
        return dict(zip(own.case_id, own.reply, strict=True))


def _compare(
    judge: Judge, cases: Sequence[Case], one: Mapping[str, str], other: Mapping[str, str]
) -> list[dict[str, float]]:
    pairs = [(one[case.case_id], other[case.case_id]) for case in cases]
    questions = [
        Question(case.target.post, case.description, *shown)
        for case, (a, b) in zip(cases, pairs, strict=True)
        for shown in ((a, b), (b, a))
        if a != b  # Equal ones are a tie, which no judge is asked about.
    ]
    verdicts = iter(judge.judge(questions) if questions else [])
    return [
        {"score": 0.5} if a == b else _outcome(next(verdicts), next(verdicts)) for a, b in pairs
    ]


def _outcome(shown_first: Verdict | None, shown_second: Verdict | None) -> dict[str, float]:
    if shown_first is None or shown_second is None:
        return {}
    one, other = shown_first.probability_a, 1.0 - shown_second.probability_a
    score = 1.0 if min(one, other) > 0.5 else 0.0 if max(one, other) < 0.5 else 0.5
    return {"score": score, "p_shown_first": one, "p_shown_second": other}


def _with_truth(benchmark: Benchmark) -> list[Case]:
    return [case for case in benchmark.scored if case.description is not None]


def _named(case: Case) -> dict[str, str]:
    return {"case_id": case.case_id, "unit": case.unit}

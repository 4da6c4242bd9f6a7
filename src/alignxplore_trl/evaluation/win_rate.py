"""Win rates: which of two methods' replies does a judge that knows the true preference prefer?

Source: METHOD, Evaluation (win rate). An accuracy asks whether a description helps a judge to tell
two given replies apart; a win rate asks whether it helps a model to write a better one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binomtest

from alignxplore_trl.evaluation.methods import Comparison, MethodSetting
from alignxplore_trl.evaluation.replies import Reply
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
from alignxplore_trl.evaluation.summary import Summary
from alignxplore_trl.judging.protocol import Judge
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.rendering import Question

Outcome = Literal["win", "tie", "loss"]
Replies = Mapping[str, Reply]  # by case id

_CASES_AT_ONCE = 256
_POINTS: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True)
class ComparedReplies:
    """What one judge made of two methods' replies to one case.

    Attributes:
        reply_a, reply_b: the replies under the descriptions of methods A and B; `None` where there
            is none.
        ended_a, ended_b: whether the model ended them, not the limit of new tokens.
        p_a_first: the judge's probability of preferring A's reply where it is shown first.
        p_a_second: the same where it is shown second. Both are `None` for equal replies, which no
            judge is asked about, and where the judge gave no answer.
        outcome: of A. A win or a loss if both orders agree, a tie otherwise and for equal replies;
            `None` where a reply or an answer is missing.
    """

    benchmark: str
    judge: str
    method_a: str
    setting_a: str
    method_b: str
    setting_b: str
    case_id: str
    cluster: str
    reply_a: str | None
    reply_b: str | None
    ended_a: bool | None
    ended_b: bool | None
    p_a_first: float | None
    p_a_second: float | None
    outcome: Outcome | None


_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("judge", pa.string()),
        ("method_a", pa.string()),
        ("setting_a", pa.string()),
        ("method_b", pa.string()),
        ("setting_b", pa.string()),
        ("case_id", pa.string()),
        ("cluster", pa.string()),
        ("reply_a", pa.string()),
        ("reply_b", pa.string()),
        ("ended_a", pa.bool_()),
        ("ended_b", pa.bool_()),
        ("p_a_first", pa.float64()),
        ("p_a_second", pa.float64()),
        ("outcome", pa.string()),
    ]
)


def draw_cases(
    cases: Sequence[PreferenceCase], count: int | None, seed: int
) -> list[PreferenceCase]:
    """Up to `count` of the cases whose true description is known (`None`: all), in their order.

    They are drawn by a hash of seed and case: no generator's state matters, and a larger number
    draws the same ones and others.
    """
    known = [case for case in cases if case.description is not None]
    ranked = sorted(known, key=lambda case: _rank(seed, case))
    drawn = {case.case_id for case in ranked[:count]}
    return [case for case in known if case.case_id in drawn]


def compare_replies(
    benchmark: str,
    cases: Sequence[PreferenceCase],
    replies: Mapping[MethodSetting, Replies],
    pairs: Sequence[Comparison],
    judges: Mapping[str, Judge],
) -> list[ComparedReplies]:
    """Show every judge the true description and the replies of two methods, in both orders.

    Args:
        benchmark: its name in results.
        cases: those that were drawn; all have a true description.
        replies: of each method in its setting, by case id.
        pairs: the methods to compare, A and B.
        judges: by the name they have in results; equal questions are asked once.

    Returns:
        One row per judge, pair and case, in that order.

    Raises:
        ValueError: a case has no true description.
    """
    without = [case.case_id for case in cases if case.description is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(cases)} cases have no true description: {without[:3]}"
        )
    batches = [
        (pair, cases[start : start + _CASES_AT_ONCE])
        for pair in pairs
        for start in range(0, len(cases), _CASES_AT_ONCE)
    ]
    rows: list[ComparedReplies] = []
    for name, judge in judges.items():
        what = f"batches of {_CASES_AT_ONCE} pairs of replies compared by {name}"
        for (first, second), batch in progress(batches, what, len(batches)):
            written = [
                _Written(case, replies[first].get(case.case_id), replies[second].get(case.case_id))
                for case in batch
            ]
            rows += [
                _row(benchmark, name, first, second, both, answer)
                for both, answer in zip(written, _answers(judge, written), strict=True)
            ]
    return rows


def summarise_win_rates(
    rows: Sequence[ComparedReplies], cases: Sequence[PreferenceCase], seed: int
) -> Summary:
    """The figures of one benchmark, `metric/benchmark/judge/A-B/a-b`.

    - `win_rate`: wins of A and half of the ties, over the cases with an outcome, with `/low` and
      `/high` of its 95 % interval, clustered as all intervals are;
    - `win_wins`, `win_ties`, `win_losses`: their shares of the same cases;
    - `win_p`: of the two-sided sign test, over wins and losses; it takes cases as independent. 1
      where all are ties;
    - `win_cases`, `win_unanswered`: cases that were drawn, and those of them without an outcome,
      because a reply or a judge's answer is missing;
    - `win_without_truth`: cases of the benchmark that could not be drawn, because their true
      description isn't known;
    - `win_replies_cut`: replies of either method that the limit of new tokens ended.

    A figure that nothing could be estimated from is `None`.

    Args:
        rows: what `compare_replies` returned.
        cases: all cases of the benchmark, drawn or not.
        seed: of the bootstrap.
    """
    by_comparison: dict[str, list[ComparedReplies]] = {}
    for row in rows:
        methods = f"{row.method_a}-{row.method_b}/{row.setting_a}-{row.setting_b}"
        by_comparison.setdefault(f"{row.benchmark}/{row.judge}/{methods}", []).append(row)
    summary: Summary = {}
    for where, own in by_comparison.items():
        summary |= _figures(where, own, seed)
        summary[f"win_without_truth/{where}"] = sum(case.description is None for case in cases)
    return summary


def write_win_rates(path: Path, rows: Sequence[ComparedReplies]) -> None:
    """Write compared replies to a Parquet file that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], _SCHEMA), unfinished)
    os.replace(unfinished, path)


def outcome_of(p_a_first: float | None, p_a_second: float | None) -> Outcome | None:
    """What two answers say of A, from its probabilities when shown first and when shown second."""
    if p_a_first is None or p_a_second is None:
        return None
    if min(p_a_first, p_a_second) > 0.5:
        return "win"
    return "loss" if max(p_a_first, p_a_second) < 0.5 else "tie"


def _rank(seed: int, case: PreferenceCase) -> bytes:
    return hashlib.sha256(f"{seed}/win_rate/{case.case_id}".encode()).digest()


@dataclass(frozen=True)
class _Written:
    """What was written to a case's post under the descriptions of A and B."""

    case: PreferenceCase
    a: Reply | None
    b: Reply | None

    @property
    def equal(self) -> bool:
        """Whether there are two replies, and no judge could tell them apart."""
        return self.a is not None and self.b is not None and self.a.text == self.b.text

    def questions(self) -> list[Question]:
        """Both orders of the replies; nothing to ask where one is missing or both are equal."""
        if self.a is None or self.b is None or self.equal:
            return []
        post, truth = self.case.target.post, self.case.description
        return [
            Question(post, truth, self.a.text, self.b.text),
            Question(post, truth, self.b.text, self.a.text),
        ]


def _answers(judge: Judge, written: Sequence[_Written]) -> list[tuple[float | None, float | None]]:
    """A's probabilities when shown first and second; `None` for those that aren't asked about."""
    questions = [both.questions() for both in written]
    verdicts = iter(judge.judge([question for own in questions for question in own]))
    answers: list[tuple[float | None, float | None]] = []
    for own in questions:
        first, second = [next(verdicts) for _ in own] or (None, None)
        answers.append(
            (
                None if first is None else first.probability_a,
                None if second is None else 1.0 - second.probability_a,
            )
        )
    return answers


def _row(
    benchmark: str,
    judge: str,
    first: MethodSetting,
    second: MethodSetting,
    written: _Written,
    answer: tuple[float | None, float | None],
) -> ComparedReplies:
    a, b = written.a, written.b
    return ComparedReplies(
        benchmark=benchmark,
        judge=judge,
        method_a=first.method,
        setting_a=first.setting,
        method_b=second.method,
        setting_b=second.setting,
        case_id=written.case.case_id,
        cluster=written.case.cluster,
        reply_a=None if a is None else a.text,
        reply_b=None if b is None else b.text,
        ended_a=None if a is None else a.ended,
        ended_b=None if b is None else b.ended,
        p_a_first=answer[0],
        p_a_second=answer[1],
        outcome="tie" if written.equal else outcome_of(*answer),
    )


def _figures(where: str, rows: Sequence[ComparedReplies], seed: int) -> Summary:
    """The figures of one comparison, under the place it has in the keys."""
    points = [None if row.outcome is None else _POINTS[row.outcome] for row in rows]
    rate = ClusteredBootstrap([row.cluster for row in rows], seed=seed).mean(points)
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    answered = len(outcomes)
    wins, ties, losses = (outcomes.count(each) for each in _POINTS)
    sign_test = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    cut = sum(ended is False for row in rows for ended in (row.ended_a, row.ended_b))
    return {
        f"win_rate/{where}": rate.value,
        f"win_rate/{where}/low": rate.low,
        f"win_rate/{where}/high": rate.high,
        f"win_wins/{where}": wins / answered if answered else None,
        f"win_ties/{where}": ties / answered if answered else None,
        f"win_losses/{where}": losses / answered if answered else None,
        f"win_p/{where}": sign_test if answered else None,
        f"win_cases/{where}": len(rows),
        f"win_unanswered/{where}": len(rows) - answered,
        f"win_replies_cut/{where}": cut,
    }

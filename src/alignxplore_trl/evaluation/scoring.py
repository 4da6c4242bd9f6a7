"""From descriptions to verdicts: does a judge that reads the description pick the right reply?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import (
    Judge,
    JudgedPair,
    Order,
    Preference,
    Verdict,
    preferences,
)
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.rendering import Question


class MethodSetting(NamedTuple):
    """One row of a results table: a method and the setting it is tried in."""

    method: str
    setting: str


@dataclass(frozen=True)
class VerdictRow:
    """What one judge made of one method's description of one case.

    Attributes:
        p_correct: the judge's probability of the reply that the user preferred, with the order of
            the replies undone. `None` when the judge was not asked (malformed completion, or a
            method that decides by itself and could not) or gave no answer.
        correct: R_jud, 1.0 or 0.0. A tie is not a win; a malformed completion scores 0.0. `None`
            when the judge gave no answer: such a row is left out of the accuracy, and counted.
        position_gap: how far the two orders of the replies are apart, see `Preference`.
        description_tokens: length of the description, in tokens of the evaluation's tokenizer.

    The other attributes are those of the case and of its `UserDescription`.
    """

    case_id: str
    cluster: str
    method: str
    setting: str
    judge: str
    completion: str | None
    description: str | None
    earlier: str | None
    format_problem: str | None
    p_correct: float | None
    correct: float | None
    position_gap: float | None
    completion_tokens: int | None
    description_tokens: int | None
    ended: bool | None


_SCHEMA = pa.schema(
    [
        ("case_id", pa.string()),
        ("cluster", pa.string()),
        ("method", pa.string()),
        ("setting", pa.string()),
        ("judge", pa.string()),
        ("completion", pa.string()),
        ("description", pa.string()),
        ("earlier", pa.string()),
        ("format_problem", pa.string()),
        ("p_correct", pa.float64()),
        ("correct", pa.float64()),
        ("position_gap", pa.float64()),
        ("completion_tokens", pa.int64()),
        ("description_tokens", pa.int64()),
        ("ended", pa.bool_()),
    ]
)


class AskOnce:
    """A judge that passes each distinct question on once and remembers the verdict.

    Methods agree on many descriptions (null is the same in every setting), and some benchmarks use
    a pair of replies in both directions.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._verdicts: dict[Question, Verdict | None] = {}

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """One verdict per question, in order."""
        new = [question for question in dict.fromkeys(questions) if question not in self._verdicts]
        if new:
            self._verdicts |= zip(new, self._judge.judge(new), strict=True)
        return [self._verdicts[question] for question in questions]

    def take_measurements(self) -> Measurements:
        """Those of the judge that is asked."""
        return self._judge.take_measurements()


def score(
    cases: Sequence[PreferenceCase],
    methods: Mapping[MethodSetting, Sequence[UserDescription | Decision]],
    judges: Mapping[str, Judge],
    count_tokens: Callable[[str], int],
    order: Order = "both",
    seed: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> list[VerdictRow]:
    """Put every method's descriptions before every judge (METHOD: ACC_jud is the mean of R_jud).

    A method that decides by itself gets the same row under every judge, so that tables compare it
    with the others.

    Args:
        cases: all cases of the benchmark.
        methods: what each method says in each setting, at most one entry per case.
        judges: the judges to ask, by the name they have in results.
        count_tokens: gives the length of a description.
        order: in which order the replies stand; both orders averaged by default.
        seed: decides the order where it is random.
        report: called with the number of finished methods, counted under each judge, after each.

    Returns:
        One row per judge, method, setting and entry, in that order.

    Raises:
        ValueError: two cases have one id, a method speaks twice of a case or of an unknown one, or
            a name holds what separates the parts of a key in the summary.
    """
    for part in (*(part for name in methods for part in name), *judges):
        if "/" in part or ("-" in part and part not in judges):
            raise ValueError(f"{part!r}: a name in results must not hold '/', a method's nor '-'")
    by_id = {case.case_id: case for case in cases}
    if len(by_id) < len(cases):
        raise ValueError(f"{len(cases) - len(by_id)} of {len(cases)} cases repeat a case_id")
    for name, entries in methods.items():
        _check_entries(name, entries, by_id)
    rows: list[VerdictRow] = []
    done = 0
    for judge_name, judge in judges.items():
        judge_once = AskOnce(judge)
        for name, entries in methods.items():
            found = _preferences(judge_once, by_id, entries, order, seed)
            for entry, preference in zip(entries, found, strict=True):
                case = by_id[entry.case_id]
                rows.append(_row(case, name, judge_name, entry, preference, count_tokens))
            done += 1
            report(done)
    return rows


def is_correct(p_correct: float | None) -> float | None:
    """R_jud of a probability: 1.0 above one half, 0.0 otherwise, `None` for no answer."""
    return None if p_correct is None else float(p_correct > 0.5)


def write_verdicts(path: Path, rows: Sequence[VerdictRow]) -> None:
    """Write verdicts to a Parquet file that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], _SCHEMA), unfinished)
    os.replace(unfinished, path)


def _row(
    case: PreferenceCase,
    name: MethodSetting,
    judge: str,
    entry: UserDescription | Decision,
    preference: Preference | None,
    count_tokens: Callable[[str], int],
) -> VerdictRow:
    probability = None if preference is None else preference.probability
    said = entry if isinstance(entry, UserDescription) else UserDescription(entry.case_id, None)
    return VerdictRow(
        case_id=case.case_id,
        cluster=case.cluster,
        method=name.method,
        setting=name.setting,
        judge=judge,
        completion=said.completion,
        description=said.description,
        earlier=said.earlier,
        format_problem=None if said.format_problem is None else said.format_problem.value,
        p_correct=probability,
        correct=is_correct(probability) if said.format_problem is None else 0.0,
        position_gap=None if preference is None else preference.position_gap,
        completion_tokens=said.completion_tokens,
        description_tokens=None if said.description is None else count_tokens(said.description),
        ended=said.ended,
    )


def _check_entries(
    name: MethodSetting,
    entries: Sequence[UserDescription | Decision],
    by_id: Mapping[str, PreferenceCase],
) -> None:
    ids = [entry.case_id for entry in entries]
    unknown = [case_id for case_id in ids if case_id not in by_id]
    if unknown or len(set(ids)) < len(ids):
        raise ValueError(
            f"{name.method}/{name.setting}: {len(unknown)} entries of unknown cases "
            f"{unknown[:3]}, {len(ids) - len(set(ids))} repeated"
        )


def _preferences(
    judge: Judge,
    by_id: Mapping[str, PreferenceCase],
    entries: Sequence[UserDescription | Decision],
    order: Order,
    seed: int,
) -> list[Preference | None]:
    """What is thought of the preferred reply for each entry; `None` for malformed ones."""
    asked = [
        entry
        for entry in entries
        if isinstance(entry, UserDescription) and entry.format_problem is None
    ]
    pairs = [_pair(by_id[entry.case_id], entry.description) for entry in asked]
    answers = preferences(judge, pairs, order, seed)
    found = {entry.case_id: answer for entry, answer in zip(asked, answers, strict=True)}
    return [
        _decided(entry) if isinstance(entry, Decision) else found.get(entry.case_id)
        for entry in entries
    ]


def _decided(entry: Decision) -> Preference | None:
    probability = entry.probability_chosen
    return None if probability is None else Preference(probability, None)


def _pair(case: PreferenceCase, description: str | None) -> JudgedPair:
    target = case.target
    return JudgedPair(case.case_id, target.post, description, target.chosen, target.rejected)

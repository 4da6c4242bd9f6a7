"""From descriptions to verdicts: does a model that reads the description pick the right reply?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeGuard, TypeVar

from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.judging.generator import Generator
from alignxplore_trl.judging.protocol import (
    Judge,
    JudgedPair,
    Order,
    Preference,
    preferences,
)
from alignxplore_trl.rewards.generated import differences_of_gains
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import PreferenceCase

Metric = Literal["acc_jud", "acc_gen", "reasoning"]


class OfCase(Protocol):
    """Anything that is about one case."""

    @property
    def case_id(self) -> str: ...


Row = TypeVar("Row", bound=OfCase)
Answer = TypeVar("Answer")

_PAIRS_AT_ONCE = 512


class Place(NamedTuple):
    """Where the accuracy of one method stands."""

    benchmark: str
    metric: Metric
    judge: str
    method: str
    setting: str


@dataclass(frozen=True)
class VerdictRow:
    """What one judge or generator made of one method's description of one case.

    Attributes:
        metric: `acc_jud`, a judge that reads the description; `acc_gen`, a generator that does;
            `reasoning`, a judge that reads the completion's reasoning in its place.
        judge: the name of the judge, or of the generator.
        correct: R_jud or R_gen, 1.0 or 0.0. A tie is not a win; a malformed completion scores 0.0.
            `None` where there was no answer: such a row is left out of the accuracy, and counted.
        p_correct: a judge's probability of the reply that the user preferred, with the order of the
            replies undone. `None` for generators, and where the judge was not asked (malformed
            completion, or a method that decides by itself and could not) or gave no answer.
        margin: by how many nats the description helps a generator more to the reply that the user
            preferred than to the other one. `None` for judges, and where it was not asked or gave
            no answer.
        position_gap: how far the two orders of the replies are apart, see `Preference`.
    """

    benchmark: str
    metric: Metric
    judge: str
    method: str
    setting: str
    case_id: str
    cluster: str
    correct: float | None
    p_correct: float | None = None
    margin: float | None = None
    position_gap: float | None = None

    @property
    def place(self) -> Place:
        """Where the accuracy stands that this is a part of."""
        return Place(self.benchmark, self.metric, self.judge, self.method, self.setting)


@dataclass(frozen=True)
class DescriptionRow:
    """What one method said of one case.

    Attributes:
        said: the description, with all that is known of how it came about.
        description_tokens: its length in tokens of the evaluation's tokenizer.
    """

    benchmark: str
    method: str
    setting: str
    cluster: str
    said: UserDescription
    description_tokens: int | None

    @property
    def name(self) -> MethodSetting:
        """The method in its setting."""
        return MethodSetting(self.method, self.setting)

    @property
    def case_id(self) -> str:
        """The case that is described."""
        return self.said.case_id


@dataclass(frozen=True)
class Scores:
    """All verdicts on one benchmark, and the descriptions that they are about.

    Attributes:
        verdicts: one per metric, judge or generator, method, setting and case.
        descriptions: one per method, setting and case; methods that decide by themselves have none.
    """

    verdicts: Sequence[VerdictRow]
    descriptions: Sequence[DescriptionRow]


@dataclass(frozen=True)
class _Entry:
    """What a method says of a case, and where that stands."""

    benchmark: str
    name: MethodSetting
    case: PreferenceCase
    said: UserDescription | Decision

    @property
    def is_malformed(self) -> bool:
        """Whether a description was to be written, and wasn't."""
        return isinstance(self.said, UserDescription) and self.said.format_problem is not None

    def pair(self, text: str | None) -> JudgedPair:
        """The case's replies, to be judged under a text about its user."""
        target = self.case.target
        return JudgedPair(self.case.case_id, target.post, text, target.chosen, target.rejected)

    def described_pair(self) -> JudgedPair | None:
        """What to ask about the description; `None` for a malformed one and a decision."""
        if isinstance(self.said, Decision) or self.is_malformed:
            return None
        return self.pair(self.said.description)

    def reasoned_pair(self) -> JudgedPair | None:
        """What to ask about the reasoning; `None` where there is none."""
        if isinstance(self.said, Decision) or self.said.reasoning is None:
            return None
        return self.pair(self.said.reasoning)

    def judged(self, metric: Metric, judge: str, preference: Preference | None) -> VerdictRow:
        """The row of what a judge, or a method that decides by itself, thinks."""
        probability = None if preference is None else preference.probability
        return self._row(
            metric,
            judge,
            0.0 if self.is_malformed else is_correct(probability),
            p_correct=probability,
            position_gap=None if preference is None else preference.position_gap,
        )

    def generated(self, generator: str, margin: float | None) -> VerdictRow:
        """The row of what a generator makes of the description."""
        is_win = None if margin is None else float(margin > 0.0)
        correct = 0.0 if self.is_malformed else is_win
        return self._row("acc_gen", generator, correct, margin=margin)

    def _row(
        self, metric: Metric, judge: str, correct: float | None, **numbers: float | None
    ) -> VerdictRow:
        return VerdictRow(
            benchmark=self.benchmark,
            metric=metric,
            judge=judge,
            method=self.name.method,
            setting=self.name.setting,
            case_id=self.case.case_id,
            cluster=self.case.cluster,
            correct=correct,
            **numbers,
        )


def score(
    benchmark: str,
    cases: Sequence[PreferenceCase],
    methods: Mapping[MethodSetting, Sequence[UserDescription | Decision]],
    judges: Mapping[str, Judge],
    generators: Mapping[str, Generator],
    count_tokens: Callable[[str], int],
    order: Order = "both",
    seed: int = 0,
    *,
    faithfulness: bool = False,
) -> Scores:
    """Put every method's descriptions before every judge and generator.

    ACC_jud is the mean of R_jud x R_format, ACC_gen that of R_gen x R_format (METHOD: Evaluation).

    A method that decides by itself gets the same row under every judge, so that tables compare it
    with the others. Generators have no row of it, and none where a method gives no description on
    purpose: both sides of R_gen's comparison are then the same by definition, a tie on every case,
    whose accuracy of 0 would say nothing.

    All pairs of replies of all methods go to a judge together, case by case, in large batches;
    stderr is told how many of them are done.

    Args:
        benchmark: its name in results.
        cases: all cases of the benchmark.
        methods: what each method says in each setting, at most one entry per case.
        judges: the judges to ask, by the name they have in results.
        generators: the generators to ask, likewise; a judge may have the same name.
        count_tokens: gives the length of a description.
        order: in which order judges see the replies; both orders averaged by default.
        seed: decides the order where it is random.
        faithfulness: whether judges are also asked with the reasoning in place of the description,
            where there is one.

    Raises:
        ValueError: two cases have one id, a method speaks twice of a case or of an unknown one, or
            a name holds what separates the parts of a key in the summary.
    """
    _check_names([benchmark, *judges, *generators], methods)
    by_id = {case.case_id: case for case in cases}
    if len(by_id) < len(cases):
        raise ValueError(f"{len(cases) - len(by_id)} of {len(cases)} cases repeat a case_id")
    for name, own in methods.items():
        _check_entries(name, own, by_id)
    entries = [
        _Entry(benchmark, name, by_id[said.case_id], said)
        for name, own in methods.items()
        for said in own
    ]
    verdicts: list[VerdictRow] = []
    for judge_name, judge in judges.items():
        verdicts += _judged(judge_name, judge, entries, order, seed, faithfulness)
    for generator_name, generator in generators.items():
        verdicts += _generated(generator_name, generator, entries)
    return Scores(verdicts, _described(entries, count_tokens))


def is_correct(p_correct: float | None) -> float | None:
    """R_jud of a probability: 1.0 above one half, 0.0 otherwise, `None` for no answer."""
    return None if p_correct is None else float(p_correct > 0.5)


def aligned(
    position: Mapping[str, int], rows: Iterable[Row], value: Callable[[Row], float | None]
) -> list[float | None]:
    """A value of each row at the position of its case; `None` for cases without a row."""
    values: list[float | None] = [None] * len(position)
    for row in rows:
        values[position[row.case_id]] = value(row)
    return values


def tries_to_describe(said: UserDescription | Decision) -> TypeGuard[UserDescription]:
    """Whether a method wrote, or failed to write, a description."""
    return isinstance(said, UserDescription) and (
        said.description is not None or said.format_problem is not None
    )


def _judged(
    name: str, judge: Judge, entries: Sequence[_Entry], order: Order, seed: int, faithfulness: bool
) -> list[VerdictRow]:
    """R_jud of every entry and, where it is asked for, what the judge makes of the reasonings."""
    described = [entry.described_pair() for entry in entries]
    reasoned = [entry.reasoned_pair() if faithfulness else None for entry in entries]
    found = _in_batches(
        lambda pairs: preferences(judge, pairs, order, seed),
        [*described, *reasoned],
        f"batches of pairs before the judge {name}",
    )
    rows = []
    for entry, pair in zip(entries, described, strict=True):
        said = entry.said
        preference = _decided(said) if isinstance(said, Decision) else found.get(pair)
        rows.append(entry.judged("acc_jud", name, preference))
    rows += [
        entry.judged("reasoning", name, found[pair])
        for entry, pair in zip(entries, reasoned, strict=True)
        if pair is not None
    ]
    return rows


def _generated(name: str, generator: Generator, entries: Sequence[_Entry]) -> list[VerdictRow]:
    """R_gen of every entry that has, or should have, a description."""
    trying = [entry for entry in entries if tries_to_describe(entry.said)]
    described = [entry.described_pair() for entry in trying]
    margins = _in_batches(
        lambda pairs: differences_of_gains(generator, pairs),
        described,
        f"batches of pairs before the generator {name}",
    )
    return [
        entry.generated(name, margins.get(pair))
        for entry, pair in zip(trying, described, strict=True)
    ]


def _in_batches(
    ask: Callable[[Sequence[JudgedPair]], Sequence[Answer]],
    pairs: Sequence[JudgedPair | None],
    what: str,
) -> Mapping[JudgedPair | None, Answer]:
    """The answer about each distinct pair, asked case by case, so that batches share texts."""
    asked = dict.fromkeys(pair for pair in pairs if pair is not None)
    distinct = sorted(asked, key=lambda pair: pair.key)
    starts = range(0, len(distinct), _PAIRS_AT_ONCE)
    answers = [
        answer
        for start in progress(starts, what, len(starts))
        for answer in ask(distinct[start : start + _PAIRS_AT_ONCE])
    ]
    return dict(zip(distinct, answers, strict=True))


def _described(
    entries: Sequence[_Entry], count_tokens: Callable[[str], int]
) -> list[DescriptionRow]:
    return [
        DescriptionRow(
            entry.benchmark,
            *entry.name,
            entry.case.cluster,
            entry.said,
            None if entry.said.description is None else count_tokens(entry.said.description),
        )
        for entry in entries
        if isinstance(entry.said, UserDescription)
    ]


def _decided(decision: Decision) -> Preference | None:
    probability = decision.probability_chosen
    return None if probability is None else Preference(probability, None)


def _check_names(others: Sequence[str], methods: Mapping[MethodSetting, object]) -> None:
    own = [part for name in methods for part in name]
    for part in (*own, *others):
        if "/" in part or ("-" in part and part in own):
            raise ValueError(f"{part!r}: a name in results must not hold '/', a method's nor '-'")


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

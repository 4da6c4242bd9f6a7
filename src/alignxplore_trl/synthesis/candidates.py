"""Sample candidates from a teacher, verify them with the judge, keep the ones with reward 1."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from alignxplore_trl.inference.describing import Describer
from alignxplore_trl.judging.protocol import Judge, JudgedPair, Order, preference_probabilities
from alignxplore_trl.rewards.judged import reward_of
from alignxplore_trl.signals import PreferenceCase, Signal, rounds_of_signals
from alignxplore_trl.text.budget import fit_prompt
from alignxplore_trl.text.parsing import (
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
)


@dataclass(frozen=True)
class Candidate:
    """One completion of the teacher and its verdict.

    Attributes:
        prompt: the student's prompt, which does not name the dimensions that guided the teacher.
        earlier: the description of the round before that stands in the prompt.
        probability: with which the judge prefers the reply the user preferred; `None` where the
            completion was malformed or the judge did not answer.
        reward: R_jud x R_format; `None` where the judge did not answer.
        kept: whether the completion became a cold-start example.
    """

    case_id: str
    round: int
    number: int
    earlier: str | None
    prompt: str
    completion: str
    outcome: Inference | FormatProblem
    probability: float | None
    reward: float | None
    kept: bool

    def row(self) -> dict[str, Any]:
        """The candidate as plain values, for a file."""
        outcome = self.outcome.value if isinstance(self.outcome, FormatProblem) else "well_formed"
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "outcome": outcome,
        }

    def example(self) -> dict[str, str]:
        """The prompt and completion that cold start trains on."""
        assert isinstance(self.outcome, Inference)
        return {"prompt": self.prompt, "completion": format_completion(self.outcome)}


@dataclass(frozen=True)
class SynthesisSettings:
    """What is sampled and kept.

    Attributes:
        candidates: samples per case and round (METHOD: G).
        keep: verified candidates kept per case and round at most, the first ones; `None` keeps all.
        per_round: signals per round.
        rounds: rounds; every round after the first reads a description of the one before.
        order: order of the responses that the judge sees.
        seed: of sampling, of the order, and of the draw of earlier descriptions.
    """

    candidates: int
    keep: int | None
    per_round: int
    rounds: int
    order: Order
    seed: int


def synthesize(
    teacher: Describer,
    judge: Judge,
    cases: Sequence[PreferenceCase],
    settings: SynthesisSettings,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[list[Candidate], dict[str, int]]:
    """All candidates of all rounds with their verdicts, and counts of what became of them.

    Source: METHOD, cold start, steps 2 to 4. In the round after the first, the earlier description
    is drawn among the well-formed candidates of the same case, right or wrong, because that is
    what reinforcement learning will meet.

    Args:
        report: called with the number of rounds finished after each of them.
    """
    earlier: dict[str, str | None] = {case.case_id: None for case in cases}
    found: list[Candidate] = []
    counts: Counter[str] = Counter()
    for number in range(1, settings.rounds + 1):
        with_signals = [
            (case, signals[number - 1])
            for case in cases
            if len(signals := rounds_of_signals(case, settings.per_round, number)) == number
        ]
        counts[f"round_{number}/cases_without_signals"] = len(cases) - len(with_signals)
        of_round = _round_candidates(teacher, judge, with_signals, earlier, number, settings)
        found += of_round
        counts.update(_count(of_round, number))
        earlier = _draw_earlier(of_round, settings.seed)
        report(number)
    return found, dict(counts)


def _round_candidates(
    teacher: Describer,
    judge: Judge,
    cases: Sequence[tuple[PreferenceCase, Sequence[Signal]]],
    earlier: dict[str, str | None],
    number: int,
    settings: SynthesisSettings,
) -> list[Candidate]:
    """Sample, parse, judge and select the candidates of one round."""
    rows = [(case, sample) for case, _ in cases for sample in range(settings.candidates)]
    teacher_prompts = {
        case.case_id: _prompt(teacher, case, own, earlier, True) for case, own in cases
    }
    student_prompts = {
        case.case_id: _prompt(teacher, case, own, earlier, False) for case, own in cases
    }
    completions = teacher.complete(
        [teacher_prompts[case.case_id] for case, _ in rows], settings.seed + number
    )
    outcomes = [parse_completion(completion.text) for completion in completions]
    probabilities = _verify(judge, [case for case, _ in rows], outcomes, settings)
    candidates = []
    kept: Counter[str] = Counter()
    for (case, sample), completion, outcome, probability in zip(
        rows, completions, outcomes, probabilities, strict=True
    ):
        reward = reward_of(outcome, probability)
        keep = reward == 1 and (settings.keep is None or kept[case.case_id] < settings.keep)
        kept[case.case_id] += keep
        candidates.append(
            Candidate(
                case_id=case.case_id,
                round=number,
                number=sample,
                earlier=earlier.get(case.case_id),
                prompt=student_prompts[case.case_id],
                completion=completion.text,
                outcome=outcome,
                probability=probability,
                reward=reward,
                kept=keep,
            )
        )
    return candidates


def _prompt(
    teacher: Describer,
    case: PreferenceCase,
    signals: Sequence[Signal],
    earlier: dict[str, str | None],
    guided: bool,
) -> str:
    dimensions = tuple(case.directions or ())

    def guided_prompt(own: Sequence[Signal], previous: str | None) -> str:
        return teacher.prompts.teacher(own, previous, dimensions)

    return fit_prompt(
        guided_prompt if guided else teacher.prompts.inference,
        signals,
        earlier.get(case.case_id),
        teacher.count_tokens,
        teacher.max_prompt_tokens,
    ).text


def _verify(
    judge: Judge,
    cases: Sequence[PreferenceCase],
    outcomes: Sequence[Inference | FormatProblem],
    settings: SynthesisSettings,
) -> list[float | None]:
    pairs = {
        index: JudgedPair(
            case.case_id,
            case.target.post,
            outcome.description,
            case.target.chosen,
            case.target.rejected,
        )
        for index, (case, outcome) in enumerate(zip(cases, outcomes, strict=True))
        if isinstance(outcome, Inference)
    }
    answers = preference_probabilities(judge, list(pairs.values()), settings.order, settings.seed)
    by_index = dict(zip(pairs, answers, strict=True))
    return [by_index.get(index) for index in range(len(cases))]


def _draw_earlier(candidates: Sequence[Candidate], seed: int) -> dict[str, str | None]:
    """One well-formed description per case, drawn by a hash: no generator's state matters."""
    drawn: dict[str, Candidate] = {}
    for candidate in candidates:
        if isinstance(candidate.outcome, Inference):
            best = drawn.get(candidate.case_id)
            if best is None or _rank(candidate, seed) < _rank(best, seed):
                drawn[candidate.case_id] = candidate
    return {
        case_id: candidate.outcome.description
        for case_id, candidate in drawn.items()
        if isinstance(candidate.outcome, Inference)
    }


def _rank(candidate: Candidate, seed: int) -> bytes:
    key = f"{seed}/{candidate.case_id}/{candidate.round}/{candidate.number}"
    return hashlib.sha256(key.encode()).digest()


def _count(candidates: Sequence[Candidate], number: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for candidate in candidates:
        counts["candidates"] += 1
        counts["kept"] += candidate.kept
        counts["verified"] += candidate.reward == 1
        counts["not_judged"] += candidate.reward is None
        if isinstance(candidate.outcome, FormatProblem):
            counts[f"format/{candidate.outcome}"] += 1
    counts["cases_with_one_kept"] = len({c.case_id for c in candidates if c.kept})
    counts["without_earlier_description"] = len(
        {c.case_id for c in candidates if number > 1 and c.earlier is None}
    )
    return Counter({f"round_{number}/{name}": count for name, count in counts.items()})

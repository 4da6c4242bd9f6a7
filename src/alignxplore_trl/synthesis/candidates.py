"""Candidates of a teacher, round by round, each with its verdict."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.written import Written, completion_of
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import Bar
from alignxplore_trl.signals import PreferenceCase, Signal, rounds_of_signals
from alignxplore_trl.synthesis.answers import Verified
from alignxplore_trl.synthesis.asking import Asking, seed_of
from alignxplore_trl.synthesis.dimensions import merge_dimensions, read_dimensions
from alignxplore_trl.synthesis.teachers import Ask
from alignxplore_trl.synthesis.verification import Verifier
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, fit_prompt
from alignxplore_trl.text.parsing import (
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
)
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.outage import OutageSettings

EarlierRule = Literal["well_formed", "verified"]
Guidance = Literal["known", "teacher", "none"]


@dataclass(frozen=True)
class Earlier:
    """The description that a prompt holds, and where it came from.

    Attributes:
        source: `first_round`, or the rule by which it was drawn among the candidates of the round
            before, or `none_found` where no candidate was such a one.
        description: `None` where there is none.
        number: of the candidate that wrote it.
    """

    source: Literal["first_round", "well_formed", "verified", "none_found"]
    description: str | None = None
    number: int | None = None


@dataclass(frozen=True)
class Candidate:
    """One completion of the teacher and its verdict.

    Attributes:
        dimensions: the names that guided the teacher.
        prompt: the student's prompt, which doesn't name them.
        answer: what the teacher wrote, or why it wrote nothing.
        completion: the answer from inside `<think>`; `None` where there is no answer.
        outcome: what the parser read in it.
        score: what the verification measured; `None` where the completion was malformed or the
            judge did not answer.
        reward: the score's reward x R_format; `None` where judge or teacher didn't answer.
        kept: whether the completion became a cold-start example.
    """

    case_id: str
    round: int
    number: int
    dimensions: tuple[str, ...]
    earlier: Earlier
    prompt: str
    answer: Written | Unanswered
    completion: str | None
    outcome: Inference | FormatProblem | None
    score: float | None = None
    reward: float | None = None
    kept: bool = False

    @property
    def place(self) -> tuple[str, int, int]:
        """What tells it from all others."""
        return self.case_id, self.round, self.number

    def rank(self, salt: str) -> bytes:
        """Its place in an order that no generator's state matters to."""
        key = "/".join(map(str, (salt, *self.place)))
        return hashlib.sha256(key.encode()).digest()

    @property
    def is_unjudged(self) -> bool:
        """Whether it is well-formed, but the judge hasn't answered about it."""
        return isinstance(self.outcome, Inference) and self.reward is None

    def row(self) -> dict[str, Any]:
        """The candidate as plain values, for a file."""
        written = self.answer if isinstance(self.answer, Written) else None
        outcome = self.outcome
        return {
            "case_id": self.case_id,
            "round": self.round,
            "number": self.number,
            "dimensions": list(self.dimensions),
            **self._earlier_columns(),
            "prompt": self.prompt,
            "completion": self.completion,
            "finish_reason": written.finish_reason if written else None,
            "prompt_tokens": written.prompt_tokens if written else None,
            "completion_tokens": written.completion_tokens if written else None,
            "unanswered": self.answer.reason if isinstance(self.answer, Unanswered) else None,
            "outcome": "well_formed" if isinstance(outcome, Inference) else outcome,
            "score": self.score,
            "reward": self.reward,
            "kept": self.kept,
        }

    def example(self) -> dict[str, Any]:
        """The prompt and completion that cold start trains on, and where they came from."""
        assert isinstance(self.outcome, Inference)
        return {
            "prompt": self.prompt,
            "completion": format_completion(self.outcome),
            "case_id": self.case_id,
            "round": self.round,
            "number": self.number,
            **self._earlier_columns(),
        }

    def _earlier_columns(self) -> dict[str, Any]:
        return {
            "earlier": self.earlier.description,
            "earlier_number": self.earlier.number,
            "earlier_from": self.earlier.source,
        }


@dataclass(frozen=True)
class SynthesisSettings:
    """What is sampled.

    Attributes:
        candidates: samples per case and round (METHOD: G).
        per_round: signals per round.
        rounds: rounds; every round after the first reads a description of the one before.
        earlier: among which candidates of the round before that description is drawn.
        guidance: where the names of dimensions come from.
        most_dimensions: of a teacher's names for one user, how many guide it.
        budget: the most that all answers may cost; each round may spend an equal part of it.
        outage: when the judge counts as out, and what is done then.
        seed: of sampling and of the draw of earlier descriptions.
    """

    candidates: int
    per_round: int
    rounds: int
    earlier: EarlierRule
    guidance: Guidance
    most_dimensions: int
    budget: float | None
    outage: OutageSettings
    seed: int


@dataclass(frozen=True)
class PromptBudget:
    """The most tokens of a prompt, and the model's way to count them."""

    count_tokens: Callable[[str], int]
    max_tokens: int

    def fit(
        self,
        render: Callable[[Sequence[Signal], str | None], str],
        signals: Sequence[Signal],
        earlier: str | None,
    ) -> FittedPrompt:
        """See `fit_prompt`."""
        return fit_prompt(render, signals, earlier, self.count_tokens, self.max_tokens)


@dataclass(frozen=True)
class _Task:
    """What is asked about one case in one round."""

    case: PreferenceCase
    signals: tuple[Signal, ...]
    earlier: Earlier
    dimensions: tuple[str, ...] = ()
    student_prompt: str = ""
    teacher_prompt: str = ""


class Synthesis:
    """Asks a teacher about every case in every round, and a judge about every completion.

    Source: METHOD, cold start, steps 1 to 4.

    Args:
        asking: asks the teacher.
        verifier: asks the judge.
        prompts: the templates.
        student: the budget of the student's prompts.
        teacher: the budget of the teacher's prompts.
        settings: what is sampled.
        sleep: waits between attempts to reach the judge.

    Attributes:
        candidates: all of them, by round, case and number.
        counts: of what became of cases and candidates, under `round_<number>/…`.
    """

    def __init__(
        self,
        asking: Asking,
        verifier: Verifier,
        prompts: PromptSet,
        *,
        student: PromptBudget,
        teacher: PromptBudget,
        settings: SynthesisSettings,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.asking = asking
        self.verifier = verifier
        self.prompts = prompts
        self.student = student
        self.teacher = teacher
        self.settings = settings
        self.candidates: list[Candidate] = []
        self.counts: Counter[str] = Counter()
        self._sleep = sleep
        self._accepted = self._rewarded = 0

    def run(self, cases: Sequence[PreferenceCase]) -> None:
        """All rounds, each with the descriptions of the one before.

        In the round after the first, the earlier description is drawn among the well-formed
        candidates of the same case, right or wrong, because that is what reinforcement learning
        will meet; or, by the settings, among the verified ones. Cases that the budget left without
        a candidate are not asked about again.

        Raises:
            UserError: the teacher or the judge is out; what was answered is kept.
        """
        earlier = {case.case_id: Earlier("first_round") for case in cases}
        for number in range(1, self.settings.rounds + 1):
            asked = [case for case in cases if case.case_id in earlier]
            found = self._round(number, asked, earlier)
            self.candidates += found
            self.counts.update(_count(found, number))
            earlier = draw_earlier(found, self.settings.earlier, self.settings.seed)

    def figures(self) -> dict[str, float]:
        """Counts of what was asked, answered, and became of it; tokens, and cost where known."""
        asking = self.asking
        counts = {name: asking.counts[name] for name in ("asked", "cached", "not_asked")}
        figures: dict[str, float] = {**counts, **asking.counts, **self.counts}
        figures["prompt_tokens"] = asking.spending.prompt_tokens
        figures["completion_tokens"] = asking.spending.completion_tokens
        if asking.spending.prices is not None:
            figures["cost"] = asking.spending.cost
        return figures

    def _round(
        self, number: int, cases: Sequence[PreferenceCase], earlier: Mapping[str, Earlier]
    ) -> list[Candidate]:
        self._accepted = self._rewarded = 0
        # Names of dimensions may take half of the round's part.
        self._allow(number - 0.5)
        tasks = self._guided(number, self._tasks(number, cases, earlier))
        tasks = self._with_prompts(number, tasks)
        by_case = {task.case.case_id: task for task in tasks}
        asks = [
            Ask(task.case.case_id, number, candidate, task.teacher_prompt)
            for task in tasks
            for candidate in range(self.settings.candidates)
        ]
        self._allow(number)
        found: dict[tuple[str, int, int], Candidate] = {}
        with Bar(f"candidates of round {number} of {self.settings.rounds}", len(asks)) as bar:
            for arrivals in self.asking.fulfil(asks, self.settings.seed + number):
                arrived = [self._candidate(by_case[ask.case_id], ask, own) for ask, own in arrivals]
                for candidate in self._verified(arrived, by_case):
                    found[candidate.place] = candidate
                bar.advance(len(arrivals), self._details())
        self._verify_the_rest(found, by_case)
        places = [(ask.case_id, ask.round, ask.number) for ask in asks]
        return [found[place] for place in places if place in found]

    def _allow(self, rounds: float) -> None:
        """Let so many rounds' parts of the budget be spent."""
        if self.settings.budget is not None:
            self.asking.spending.limit = self.settings.budget * rounds / self.settings.rounds

    def _tasks(
        self, number: int, cases: Sequence[PreferenceCase], earlier: Mapping[str, Earlier]
    ) -> list[_Task]:
        tasks = []
        for case in cases:
            signals = rounds_of_signals(case, self.settings.per_round, number)
            if len(signals) == number:
                tasks.append(_Task(case, signals[-1], earlier[case.case_id]))
        self.counts[f"round_{number}/cases_without_signals"] = len(cases) - len(tasks)
        return tasks

    def _guided(self, number: int, tasks: Sequence[_Task]) -> list[_Task]:
        """The tasks with the names of dimensions: known ones, the teacher's, or none."""
        match self.settings.guidance:
            case "none":
                return list(tasks)
            case "known":
                guided = [
                    replace(task, dimensions=tuple(task.case.directions or ())) for task in tasks
                ]
            case "teacher":
                guided = self._guided_by_teacher(number, tasks)
        without = sum(not task.dimensions for task in guided)
        self.counts[f"round_{number}/dimensions/cases_without"] = without
        return guided

    def _guided_by_teacher(self, number: int, tasks: Sequence[_Task]) -> list[_Task]:
        """First the teacher is asked about each signal, then it reasons with what it named."""
        prompts = {
            (task.case.case_id, place): self._dimensions_prompt(signal)
            for task in tasks
            for place, signal in enumerate(task.signals)
        }
        asks = [
            Ask(case_id, number, place, prompt, "dimensions")
            for (case_id, place), prompt in prompts.items()
            if prompt is not None
        ]
        named: dict[tuple[str, int], tuple[str, ...]] = {}
        counts: Counter[str] = Counter()
        with Bar(f"dimensions of round {number} of {self.settings.rounds}", len(asks)) as bar:
            seed = seed_of(self.settings.seed, "dimensions", number)
            for arrivals in self.asking.fulfil(asks, seed):
                for ask, answer in arrivals:
                    names = read_dimensions(answer.text) if isinstance(answer, Written) else None
                    counts["dimensions/unread"] += names is None
                    named[ask.case_id, ask.number] = names or ()
                bar.advance(len(arrivals), self._details())
        guided = []
        for task in tasks:
            of_signals = [
                named.get((task.case.case_id, place), ()) for place in range(len(task.signals))
            ]
            merged = merge_dimensions(of_signals, self.settings.most_dimensions)
            guided.append(replace(task, dimensions=merged))
        counts["dimensions/signals"] = len(prompts)
        counts["dimensions/too_long"] = len(prompts) - len(asks)
        self.counts.update({f"round_{number}/{name}": count for name, count in counts.items()})
        return guided

    def _dimensions_prompt(self, signal: Signal) -> str | None:
        """The prompt about one signal; `None` where no shortening makes it fit."""

        def render(signals: Sequence[Signal], earlier: str | None) -> str:
            return self.prompts.dimensions(signals[0])

        try:
            return self.teacher.fit(render, [signal], None).text
        except PromptTooLongError:
            return None

    def _with_prompts(self, number: int, tasks: Sequence[_Task]) -> list[_Task]:
        """The tasks with both prompts; those that no shortening makes fit are counted and left."""
        counts: Counter[str] = Counter()
        ready = []
        for task in tasks:
            dimensions, earlier = task.dimensions, task.earlier.description

            def guided(
                signals: Sequence[Signal],
                previous: str | None,
                dimensions: tuple[str, ...] = dimensions,
            ) -> str:
                return self.prompts.teacher(signals, previous, dimensions)

            try:
                for_student = self.student.fit(self.prompts.inference, task.signals, earlier)
                for_teacher = self.teacher.fit(guided, task.signals, earlier)
            except PromptTooLongError:
                counts["cases_too_long"] += 1
                continue
            for fitted in (for_student, for_teacher):
                shortened = bool(fitted.dropped_signals or fitted.shortened_texts)
                counts["prompts_shortened"] += shortened
            ready.append(
                replace(task, student_prompt=for_student.text, teacher_prompt=for_teacher.text)
            )
        self.counts.update({f"round_{number}/{name}": count for name, count in counts.items()})
        return ready

    def _candidate(self, task: _Task, ask: Ask, answer: Written | Unanswered) -> Candidate:
        completion = None
        if isinstance(answer, Written):
            completion = completion_of(answer, self.asking.teacher.chat)
        outcome = None if completion is None else parse_completion(completion)
        return Candidate(
            case_id=ask.case_id,
            round=ask.round,
            number=ask.number,
            dimensions=task.dimensions,
            earlier=task.earlier,
            prompt=task.student_prompt,
            answer=answer,
            completion=completion,
            outcome=outcome,
            reward=0.0 if isinstance(outcome, FormatProblem) else None,
        )

    def _verified(
        self, candidates: Sequence[Candidate], by_case: Mapping[str, _Task]
    ) -> list[Candidate]:
        """The candidates with what the judge says of those that it hasn't answered about."""
        open_ones = [each for each in candidates if each.is_unjudged]
        verdicts = self.verifier.verify(
            [by_case[each.case_id].case for each in open_ones],
            [each.completion or "" for each in open_ones],
        )
        by_place: dict[tuple[str, int, int], Verified | None] = {
            each.place: verdict for each, verdict in zip(open_ones, verdicts, strict=True)
        }
        judged = [
            each
            if (verdict := by_place.get(each.place)) is None
            else replace(each, score=verdict.score, reward=verdict.reward)
            for each in candidates
        ]
        self._accepted += sum(each.reward == 1 for each in judged)
        self._rewarded += sum(each.reward is not None for each in judged)
        return judged

    def _verify_the_rest(
        self, found: dict[tuple[str, int, int], Candidate], by_case: Mapping[str, _Task]
    ) -> None:
        """Ask the judge again where it was out, as the settings say.

        Raises:
            UserError: it still is.
        """
        outage = self.settings.outage
        begun = time.monotonic()
        while True:
            well_formed = sum(isinstance(each.outcome, Inference) for each in found.values())
            open_ones = [each for each in found.values() if each.is_unjudged]
            if len(open_ones) <= outage.share * well_formed:
                return
            waited = time.monotonic() - begun
            if outage.action == "abort" or waited + outage.pause_seconds > outage.limit_seconds:
                raise UserError(
                    f"judge: no answer on {len(open_ones)} of {well_formed} well-formed candidates "
                    f"(a share of {outage.share:g} is accepted), after {waited:.0f} s; what the "
                    "teacher wrote is kept. See that the judge answers, and give the same "
                    "command again: the teacher is not asked again. verification.outage says when "
                    "to wait; if it's the descriptions that are too long for the judge, "
                    "verification.outage.share=1 goes on without them"
                )
            self._sleep(outage.pause_seconds)
            for candidate in self._verified(open_ones, by_case):
                found[candidate.place] = candidate

    def _details(self) -> str:
        spending = self.asking.spending
        tokens = spending.prompt_tokens + spending.completion_tokens
        accepted = f"{self._accepted / self._rewarded:.0%} accepted, " if self._rewarded else ""
        cost = f", cost {spending.cost:.4g}" if spending.prices else ""
        return f"{accepted}{tokens:,} tokens{cost}"


def draw_earlier(
    candidates: Sequence[Candidate], rule: EarlierRule, seed: int
) -> dict[str, Earlier]:
    """One description per case, drawn by a hash: no generator's state matters.

    Args:
        candidates: of one round.
        rule: which of them may be drawn.
        seed: of the draw.
    """
    drawn: dict[str, Candidate] = {}
    for candidate in candidates:
        if _may_be_drawn(candidate, rule):
            best = drawn.get(candidate.case_id)
            if best is None or candidate.rank(str(seed)) < best.rank(str(seed)):
                drawn[candidate.case_id] = candidate
    earlier = {candidate.case_id: Earlier("none_found") for candidate in candidates}
    for case_id, candidate in drawn.items():
        assert isinstance(candidate.outcome, Inference)
        earlier[case_id] = Earlier(rule, candidate.outcome.description, candidate.number)
    return earlier


def _may_be_drawn(candidate: Candidate, rule: EarlierRule) -> bool:
    if rule == "verified":
        return candidate.reward == 1
    return isinstance(candidate.outcome, Inference)


def _count(candidates: Sequence[Candidate], number: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for candidate in candidates:
        counts["candidates"] += 1
        counts["verified"] += candidate.reward == 1
        counts["not_judged"] += candidate.is_unjudged
        if isinstance(candidate.answer, Unanswered):
            counts[f"unanswered/{candidate.answer.reason}"] += 1
        elif candidate.answer.finish_reason is not None:
            counts[f"finish_reason/{candidate.answer.finish_reason}"] += 1
        if isinstance(candidate.outcome, FormatProblem):
            counts[f"format/{candidate.outcome}"] += 1
    counts["cases_with_one_verified"] = len({c.case_id for c in candidates if c.reward == 1})
    counts["without_earlier_description"] = len(
        {c.case_id for c in candidates if c.earlier.source == "none_found"}
    )
    return Counter({f"round_{number}/{name}": count for name, count in counts.items()})

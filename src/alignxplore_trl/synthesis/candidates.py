"""A teacher's candidates, round by round, verified by a reward: the cold-start set (METHOD 3)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from alignxplore_trl.cases import Case
from alignxplore_trl.inference.writers import Ask, Writer, Written
from alignxplore_trl.run.progress import progress
from alignxplore_trl.synthesis.dimensions import merge_dimensions, read_dimensions
from alignxplore_trl.synthesis.kept import Kept, answers_to, key_of
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget
from alignxplore_trl.text.completions import (
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
)

# Completions that the reward is asked about, and whose rewards are kept, at once.
_VERIFIED_AT_ONCE = 1024


@dataclass(frozen=True)
class Candidate:
    """One completion that the teacher was asked for, and its reward.

    Attributes:
        dimensions: names that guided the teacher; the prompt, which is the student's, lacks them.
        earlier: the description that the prompt holds, if it holds one.
        written: the completion; `None` where the teacher didn't answer.
        outcome: what the parser read in it.
        reward: of the verification; `None` where the teacher or the judge didn't answer.
    """

    case_id: str
    round: int
    number: int
    dimensions: tuple[str, ...]
    earlier: str | None
    prompt: str
    written: Written | None = None
    outcome: Inference | FormatProblem | None = None
    reward: float | None = None

    def read(self, written: Written | None) -> Candidate:
        """The candidate with what the teacher wrote; a malformed completion has reward 0."""
        outcome = None if written is None else parse_completion(written.text)
        reward = 0.0 if isinstance(outcome, FormatProblem) else None
        return replace(self, written=written, outcome=outcome, reward=reward)

    @property
    def became(self) -> str:
        """In a word: verified, rejected, not_judged, unanswered, or malformed/<problem>."""
        if isinstance(self.outcome, FormatProblem):
            return f"malformed/{self.outcome}"
        if self.reward is None:
            return "unanswered" if self.written is None else "not_judged"
        return "verified" if self.reward == 1 else "rejected"

    def rank(self, salt: str) -> bytes:
        """Its place in an order that no generator's state matters to."""
        key = f"{salt}/{self.case_id}/{self.round}/{self.number}"
        return hashlib.sha256(key.encode()).digest()

    def row(self) -> dict[str, Any]:
        """The candidate as plain values, for a file."""
        names = ("case_id", "round", "number", "dimensions", "earlier", "prompt", "reward")
        completion = self.written.text if self.written else None
        row = {name: getattr(self, name) for name in names}
        return {**row, "completion": completion, "became": self.became}

    def example(self) -> dict[str, Any]:
        """The prompt and completion that cold start trains on, and where they came from."""
        assert isinstance(self.outcome, Inference)
        names = ("prompt", "case_id", "round", "number", "earlier")
        row = {name: getattr(self, name) for name in names}
        return {**row, "completion": format_completion(self.outcome)}


@dataclass
class Synthesis:
    """Asks a teacher about every case in every round, and a reward about every completion.

    Attributes:
        writer: the teacher.
        reward: verifies, by TRL's contract of rewards; never that of reinforcement learning.
        budget: of prompts, by the student's tokenizer.
        kept: where answers are kept as they arrive.
        candidates: completions for each prompt, G.
        dimensions: names that guide the teacher: `known` (the case's), `teacher` (it is asked for
            those of each signal first), or `none`.
        signals: in a round; all `rounds` but the first have a description of the one before.
        seed: of sampling, and of the draw of earlier descriptions.
        counts: what became of cases, prompts and candidates, under `round_<number>/…`.
    """

    writer: Writer
    reward: Callable[..., Sequence[float | None]]
    budget: PromptBudget
    kept: Kept
    candidates: int
    dimensions: Literal["known", "teacher", "none"]
    signals: int
    rounds: int
    seed: int
    counts: Counter[str] = field(init=False, default_factory=Counter)

    def run(self, cases: Sequence[Case]) -> list[Candidate]:
        """All candidates, by round, case and number; UserError where teacher or judge is out."""
        candidates: list[Candidate] = []
        earlier: Mapping[str, str] = {}
        for number in range(1, self.rounds + 1):
            asked = [case for case in cases if len(case.rounds(self.signals, number)) == number]
            of_round = self._verified(self._written(number, asked, earlier), asked)
            counts = Counter(candidate.became for candidate in of_round)
            counts["cases_without_signals"] = len(cases) - len(asked)
            counts["cases_with_one_verified"] = len({c.case_id for c in of_round if c.reward == 1})
            counts["candidates_without_earlier"] = sum(each.earlier is None for each in of_round)
            for written in (each.written for each in of_round if each.written):
                counts["prompt_tokens"] += written.prompt_tokens
                counts["completion_tokens"] += written.completion_tokens
            self._count(number, counts)
            candidates += of_round
            earlier = draw_earlier(of_round, self.seed)
        return candidates

    def _count(self, number: int, counts: Mapping[str, int]) -> None:
        self.counts.update({f"round_{number}/{name}": count for name, count in counts.items()})

    def _written(
        self, number: int, cases: Sequence[Case], earlier: Mapping[str, str]
    ) -> list[Candidate]:
        """The candidates of a round, without their rewards."""
        blank: list[Candidate] = []
        asks: list[Ask] = []
        prompts: list[FittedPrompt] = []
        for case, names in zip(cases, self._names(number, cases), strict=True):
            signals, before = case.rounds(self.signals, number)[-1], earlier.get(case.case_id)
            prompts.append(prompt := self.budget.fit("inference", signals, before))
            guided = self.budget.fit("teacher", signals, before, dimensions=list(names))
            for n in range(self.candidates):
                asks.append((guided.text, n))
                blank.append(Candidate(case.case_id, number, n, names, before, prompt.text))
        lost = sum(prompt.dropped_signals > 0 for prompt in prompts)
        cut = sum(prompt.shortened_texts > 0 for prompt in prompts)
        self._count(number, {"prompts_with_dropped_signals": lost, "prompts_with_cut_texts": cut})
        self.budget.warn_of_losses(lost, len(prompts))
        answers = answers_to(self.writer, asks, self.seed, self.kept)
        return [own.read(answer) for own, answer in zip(blank, answers, strict=True)]

    def _names(self, number: int, cases: Sequence[Case]) -> list[tuple[str, ...]]:
        """The names of dimensions that guide the teacher, for each case."""
        if self.dimensions != "teacher":
            known = self.dimensions == "known"
            return [tuple(case.directions or ()) if known else () for case in cases]
        prompts = [
            self.budget.fit("dimensions", [signal]).text
            for case in cases
            for signal in case.rounds(self.signals, number)[-1]
        ]
        answers = answers_to(self.writer, [(text, 0) for text in prompts], self.seed, self.kept)
        named = [None if answer is None else read_dimensions(answer.text) for answer in answers]
        self._count(number, {"signals_without_dimensions": named.count(None)})
        of_signals = [names or () for names in named]
        starts = range(0, len(of_signals), self.signals)
        return [merge_dimensions(of_signals[start : start + self.signals]) for start in starts]

    def _verified(self, candidates: Sequence[Candidate], cases: Sequence[Case]) -> list[Candidate]:
        """The same candidates, the well-formed ones with their rewards."""
        targets = {case.case_id: case.target for case in cases}
        open_ones = [own for own in candidates if isinstance(own.outcome, Inference)]
        starts = range(0, len(open_ones), _VERIFIED_AT_ONCE)
        for start in progress(starts, "batches of rewards", len(starts)):
            chunk = open_ones[start : start + _VERIFIED_AT_ONCE]
            if asked := [own for own in chunk if self.kept.find(_key(own)) is None]:
                pairs = [targets[own.case_id] for own in asked]
                rewards = self.reward(
                    prompts=[own.prompt for own in asked],
                    completions=[own.written.text for own in asked if own.written],
                    case_id=[own.case_id for own in asked],
                    post=[pair.post for pair in pairs],
                    chosen=[pair.chosen for pair in pairs],
                    rejected=[pair.rejected for pair in pairs],
                )
                answers = zip(asked, rewards, strict=True)
                self.kept.keep({_key(own): each for own, each in answers if each is not None})
        known = {own: self.kept.find(_key(own)) for own in open_ones}
        return [replace(own, reward=known[own]) if own in known else own for own in candidates]


def _key(own: Candidate) -> str:
    return key_of("reward", own.case_id, own.prompt, own.written)


def draw_earlier(candidates: Sequence[Candidate], seed: int) -> dict[str, str]:
    """A description of each case, by a hash among its well-formed ones, right or wrong."""
    drawn: dict[str, str] = {}
    for candidate in sorted(candidates, key=lambda each: each.rank(str(seed))):
        if isinstance(candidate.outcome, Inference):
            drawn.setdefault(candidate.case_id, candidate.outcome.description)
    return drawn


def draw_unverified(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """As many well-formed candidates of each round as are verified, whatever the judge said."""
    left = Counter(candidate.round for candidate in candidates if candidate.reward == 1)
    drawn = set()
    for candidate in sorted(candidates, key=lambda each: each.rank(f"{seed}/unverified")):
        if isinstance(candidate.outcome, Inference) and left[candidate.round] > 0:
            left[candidate.round] -= 1
            drawn.add(candidate)
    return [candidate for candidate in candidates if candidate in drawn]

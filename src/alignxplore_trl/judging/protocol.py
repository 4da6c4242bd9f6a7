"""The one judge protocol, and what a judge thinks of a pair in either order of its replies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from alignxplore_trl.text.prompts import Prompts

Order = Literal["random", "both"]
# Where the description stands in the judge's question.
Layout = Literal["description_first", "description_last"]


@dataclass(frozen=True)
class Question:
    """Which response would the described user prefer? `description` is `None` without one."""

    post: str
    description: str | None
    response_a: str
    response_b: str


@dataclass(frozen=True)
class Verdict:
    """Probability of naming Response A, given that A or B is named, and that of naming either."""

    probability_a: float
    label_mass: float


class Judge(Protocol):
    """Says which of two responses the described user prefers.

    It may have `counts`, a `Counter` of unanswered questions by reason, and `load()`, which brings
    weights into memory or tries the servers.
    """

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; `None` where it could not be asked or was not answered."""
        ...


class Generator(Protocol):
    """Says how probable replies are; it may have `counts` and `load()`, as a judge may."""

    def log_probabilities(
        self, prompts: Sequence[str], replies: Sequence[str]
    ) -> list[float | None]:
        """log p of each reply behind its prompt, the sum over its tokens, in nats."""
        ...


def judgement(prompts: Prompts, question: Question, layout: Layout) -> str:
    """The judge's prompt, up to where its answer starts."""
    first = layout == "description_first"
    return prompts.render(
        "judgement" if first else "judgement_description_last",
        post=question.post,
        description=question.description,
        response_a=question.response_a,
        response_b=question.response_b,
    )


@dataclass(frozen=True)
class JudgedPair:
    """A pair of replies whose preferred one is known, to be judged under a description.

    `key` decides the order of the responses where that is random: the rollouts of a case share it,
    so that they differ in nothing but the description.
    """

    key: str
    post: str
    description: str | None
    chosen: str
    rejected: str


def preferences(
    judge: Judge, pairs: Sequence[JudgedPair], order: Order, seed: int
) -> list[float | None]:
    """Probability with which the judge prefers the chosen reply of each pair.

    `random` asks once, in an order that is a function of the seed and the pair's key; `both` asks
    in both orders and averages. `None` where an answer is missing.
    """
    firsts = [[True, False] if order == "both" else [_coin(seed, p.key)] for p in pairs]
    verdicts = iter(
        judge.judge([_question(p, f) for p, own in zip(pairs, firsts, strict=True) for f in own])
    )
    return [_mean([_of_chosen(next(verdicts), first) for first in own]) for own in firsts]


def _question(pair: JudgedPair, chosen_first: bool) -> Question:
    first, second = (pair.chosen, pair.rejected) if chosen_first else (pair.rejected, pair.chosen)
    return Question(pair.post, pair.description, first, second)


def _of_chosen(verdict: Verdict | None, chosen_first: bool) -> float | None:
    if verdict is None:
        return None
    return verdict.probability_a if chosen_first else 1.0 - verdict.probability_a


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _coin(seed: int, key: str) -> bool:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()[0] % 2 == 0

"""The one judge protocol, and what a judge thinks of a pair in either order of its replies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    last = "_description_last" if layout == "description_last" else ""
    return prompts.render(f"judgement{last}", **asdict(question))


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
    both = order == "both"
    # Each pair, and whether its chosen reply is shown first.
    asked = [(p, first) for p in pairs for first in ((True, False) if both else (_coin(seed, p),))]
    questions = [
        Question(p.post, p.description, *(p.chosen, p.rejected)[:: 1 if first else -1])
        for p, first in asked
    ]
    found = [
        None if own is None else own.probability_a if first else 1.0 - own.probability_a
        for own, (_, first) in zip(judge.judge(questions), asked, strict=True)
    ]
    if not both:
        return found
    twins = zip(found[::2], found[1::2], strict=True)
    return [None if one is None or two is None else (one + two) / 2 for one, two in twins]


def _coin(seed: int, pair: JudgedPair) -> bool:
    return hashlib.sha256(f"{seed}/{pair.key}".encode()).digest()[0] % 2 == 0

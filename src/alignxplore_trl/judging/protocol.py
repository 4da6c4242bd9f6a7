"""The one judge protocol, and the preference of a judge with the order of the responses undone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.text.rendering import Question

Order = Literal["random", "both"]


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one question.

    Attributes:
        probability_a: probability of naming Response A, given that it names A or B.
        label_mass: probability of naming either, before that normalisation.
    """

    probability_a: float
    label_mass: float


class Judge(Protocol):
    """A model that says which of two responses the described user prefers."""

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; `None` where it could not be asked or was not answered."""
        ...

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        ...


@dataclass(frozen=True)
class JudgedPair:
    """A pair of replies whose preferred one is known, to be judged under a description.

    `key` decides the order of the responses where that is random: pairs with the same key are
    shown in the same order, so that rollouts of one case differ in nothing but the description.
    """

    key: str
    post: str
    description: str | None
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Preference:
    """What a judge thinks of a pair, with the order of the responses undone.

    Attributes:
        probability: with which it prefers the chosen reply, the mean of the orders it was asked in.
        position_gap: |P(chosen | shown first) - P(chosen | shown second)|; `None` where it was
            asked in one order.
    """

    probability: float
    position_gap: float | None


def preferences(
    judge: Judge, pairs: Sequence[JudgedPair], order: Order, seed: int
) -> list[Preference | None]:
    """What the judge thinks of each pair.

    `random` asks once, in an order that is a function of the seed and the pair's key; `both` asks
    in both orders and averages, and is `None` where either answer is missing.
    """
    chosen_first = [[True, False] if order == "both" else [_coin(seed, p.key)] for p in pairs]
    verdicts = iter(
        judge.judge(
            [
                _question(pair, first)
                for pair, firsts in zip(pairs, chosen_first, strict=True)
                for first in firsts
            ]
        )
    )
    return [
        _preference([_of_chosen(next(verdicts), first) for first in firsts])
        for firsts in chosen_first
    ]


def preference_probabilities(
    judge: Judge, pairs: Sequence[JudgedPair], order: Order, seed: int
) -> list[float | None]:
    """The probabilities of `preferences` alone."""
    return [
        None if own is None else own.probability for own in preferences(judge, pairs, order, seed)
    ]


def _question(pair: JudgedPair, chosen_first: bool) -> Question:
    first, second = (pair.chosen, pair.rejected) if chosen_first else (pair.rejected, pair.chosen)
    return Question(pair.post, pair.description, first, second)


def _of_chosen(verdict: Verdict | None, chosen_first: bool) -> float | None:
    if verdict is None:
        return None
    return verdict.probability_a if chosen_first else 1.0 - verdict.probability_a


def _preference(of_chosen: Sequence[float | None]) -> Preference | None:
    known = [value for value in of_chosen if value is not None]
    if len(known) < len(of_chosen):
        return None
    gap = abs(known[0] - known[1]) if len(known) == 2 else None
    return Preference(sum(known) / len(known), gap)


def _coin(seed: int, key: str) -> bool:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()[0] % 2 == 0

"""Methods without a model: what a score is worth is known from theirs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import msgspec

from alignxplore_trl.baselines.protocol import Method, Said, Setting
from alignxplore_trl.cases import Attributes, Case, Signal


class Null(Method):
    """No description: what a judge thinks of the replies without knowing the user."""

    reading = "nothing"

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        return [Said(case.case_id) for case in cases]


class Golden(Method):
    """The true description, the most that one can be worth to a judge; cases without are left out."""

    reading = "nothing"

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        return [
            Said(case.case_id, description=case.description)
            for case in cases
            if case.description is not None
        ]


class Signals(Method):
    """The raw signals in place of a description (E in the paper)."""

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        return [
            Said(case.case_id, description="\n\n".join(map(plain_text, case.signals)))
            for case in cases
        ]


class LongerReply(Method):
    """Prefer the reply with more characters, which shows what length alone gives away."""

    reading = "nothing"

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        return [
            Said(case.case_id, decided=True, probability=(1.0 + _sign(case)) / 2) for case in cases
        ]


class AnotherUsers(Method):
    """A method's well-formed descriptions, each given to a case of another user.

    A judge that prefers this to no description likes replies for what any description makes it look
    at, not for what it says of the user. Malformed completions stay with their cases, so that both
    have one share of them.

    Args:
        of: the name of the method.
        seed: of who is given which.
    """

    def __init__(self, of: str, seed: int = 0) -> None:
        self.of = of
        self.seed = seed

    def describe_after(
        self, cases: Sequence[Case], setting: Setting, others: Sequence[Said]
    ) -> list[Said]:
        """The descriptions of the others, exchanged; each is given once.

        Users stand in a random order, and each case is given what is as far behind it as the user
        with the most cases has cases. If that user has more than half, some are left out.
        """
        users = {case.case_id: case.user_id for case in cases}
        written = [own for own in others if own.description is not None]
        written.sort(key=lambda own: (self._rank(users[own.case_id]), self._rank(own.case_id)))
        shift = max(Counter(users[own.case_id] for own in written).values(), default=0)
        exchanged = [
            Said(taker.case_id, description=giver.description)
            for taker, giver in zip(written, written[shift:] + written[:shift], strict=True)
            if users[taker.case_id] != users[giver.case_id]
        ]
        return exchanged + [own for own in others if own.problem is not None]

    def _rank(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/another/{name}".encode()).digest()


def plain_text(signal: Signal) -> str:
    """A signal in words, without the tags of any template: a judge's prompt would escape them."""
    if isinstance(signal, Attributes):
        return f"About the user: {signal.text}"
    return "\n".join(f"{k.capitalize()}: {v}" for k, v in msgspec.structs.asdict(signal).items())


def _sign(case: Case) -> int:
    chosen, rejected = len(case.target.chosen), len(case.target.rejected)
    return (chosen > rejected) - (chosen < rejected)

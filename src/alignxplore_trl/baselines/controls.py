"""Methods without a model: what a score is worth is known from theirs."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from alignxplore_trl.baselines.protocol import Asked, Method, Said
from alignxplore_trl.cases import Attributes, Signal


class Null(Method):
    """No description: what a judge thinks of the replies without knowing the user."""

    reading = "nothing"

    def describe(self, asked: Asked) -> list[Said]:
        return [Said(case.case_id) for case in asked.cases]


class Golden(Method):
    """The true description, the most that one can be worth; cases without are left out."""

    reading = "nothing"

    def describe(self, asked: Asked) -> list[Said]:
        known = [case for case in asked.cases if case.description is not None]
        return [Said(case.case_id, description=case.description) for case in known]


class Signals(Method):
    """The raw signals in place of a description (E in the paper)."""

    def describe(self, asked: Asked) -> list[Said]:
        texts = ["\n\n".join(map(plain_text, case.signals)) for case in asked.cases]
        both = zip(asked.cases, texts, strict=True)
        return [Said(case.case_id, description=text) for case, text in both]


class LongerReply(Method):
    """Prefer the reply with more characters, which shows what length alone gives away."""

    reading = "nothing"

    def describe(self, asked: Asked) -> list[Said]:
        more = [len(case.target.chosen) - len(case.target.rejected) for case in asked.cases]
        share = [0.5 if own == 0 else float(own > 0) for own in more]
        both = zip(asked.cases, share, strict=True)
        return [Said(case.case_id, decided=True, probability=own) for case, own in both]


class AnotherUsers(Method):
    """A method's well-formed descriptions, each given to a case of another user.

    A judge that prefers this to no description likes replies for what any description makes it look
    at, not for what it says of the user. Malformed completions stay with their cases. Users stand
    in a random order, and each case is given what is as far behind it as the user with the most
    cases has cases; if that user has more than half, some are left out.

    Args:
        of: the name of the method.
        seed: of who is given which.
    """

    def __init__(self, of: str, seed: int = 0) -> None:
        self.of, self.seed = of, seed

    def describe(self, asked: Asked) -> list[Said]:
        users = {case.case_id: case.user_id for case in asked.cases}
        written = [own for own in asked.others if own.description is not None]
        written.sort(key=lambda own: (self._rank(users[own.case_id]), self._rank(own.case_id)))
        shift = max(Counter(users[own.case_id] for own in written).values(), default=0)
        exchanged = [
            Said(taker.case_id, description=giver.description)
            for taker, giver in zip(written, written[shift:] + written[:shift], strict=True)
            if users[taker.case_id] != users[giver.case_id]
        ]
        return exchanged + [own for own in asked.others if own.problem is not None]

    def _rank(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/another/{name}".encode()).digest()


def plain_text(signal: Signal) -> str:
    """A signal in words, without the tags of any template: a judge's prompt would escape them."""
    if isinstance(signal, Attributes):
        return f"About the user: {signal.text}"
    return "\n".join(f"{k.capitalize()}: {v}" for k, v in msgspec.structs.asdict(signal).items())

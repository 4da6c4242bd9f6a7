"""Methods without a model: what a score is worth is known from theirs."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

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
        texts = {case.case_id: "\n\n".join(map(plain_text, case.signals)) for case in asked.cases}
        return [Said(case_id, description=text) for case_id, text in texts.items()]


class LongerReply(Method):
    """Prefer the reply with more characters, which shows what length alone gives away."""

    reading = "nothing"

    def describe(self, asked: Asked) -> list[Said]:
        lengths = [(len(own.target.chosen), len(own.target.rejected)) for own in asked.cases]
        share = [0.5 if chosen == other else float(chosen > other) for chosen, other in lengths]
        both = zip(asked.cases, share, strict=True)
        return [Said(case.case_id, decided=True, probability=own) for case, own in both]


@dataclass(eq=False)
class AnotherUsers(Method):
    """The well-formed descriptions of the method `of`, each given to a case of another user.

    A judge that prefers this to no description likes replies for what any description makes it look
    at, not for what it says of the user. Malformed completions stay with their cases. Users stand
    in a random order, and each case is given what is as far behind it as the user with the most
    cases has cases; if that user has more than half, some are left out.
    """

    of: str
    seed: int = 0

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

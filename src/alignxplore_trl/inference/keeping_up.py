"""Users and their descriptions kept up to date: what is pending is read, round by round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
    WrittenDescription,
)
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.inference.user_states import (
    PendingSignal,
    StaleBaseError,
    UserStates,
    Version,
)


@dataclass
class CaughtUp:
    """What reading the pending signals came to.

    Attributes:
        versions: that were added, in the order in which they were.
        failed: users whose signals stay pending, each with the reason.
        overtaken: rounds that were done again, because another process was quicker.
    """

    versions: list[Version] = field(default_factory=list)
    failed: dict[str, NotDescribed] = field(default_factory=dict)
    overtaken: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Round:
    """A user's next signals, and the description that they update."""

    user: str
    base: Version | None
    pending: tuple[PendingSignal, ...]

    @property
    def request(self) -> DescriptionRequest:
        earlier = None if self.base is None else self.base.description
        return DescriptionRequest(tuple(each.signal for each in self.pending), earlier)


def catch_up(
    states: UserStates,
    describer: PreferenceDescriber,
    users: Sequence[str],
    *,
    per_round: int | None,
    at_least: int = 1,
    report: Callable[[Version], None] = lambda version: None,
) -> CaughtUp:
    """Read what is pending of some users, all of them together, until nothing is.

    A version is kept as soon as it is written: a process that dies loses the batch that is under
    way, and the next call reads its signals again, for the first time as far as any version knows.

    Args:
        states: where signals are pending and versions are kept.
        describer: reads them.
        users: whose.
        per_round: signals of one update at the most; `None`: all that are pending.
        at_least: fewer signals than that stay pending until there are more.
        report: called with each version that was added.
    """
    caught_up = CaughtUp()
    while rounds := _next_rounds(states, users, caught_up, per_round, at_least):
        outcomes = describer.write([each.request for each in rounds])
        for own, outcome in zip(rounds, outcomes, strict=True):
            _keep(states, own, outcome, caught_up, report)
    return caught_up


def _next_rounds(
    states: UserStates,
    users: Sequence[str],
    caught_up: CaughtUp,
    per_round: int | None,
    at_least: int,
) -> list[_Round]:
    rounds = []
    for user in users:
        if user in caught_up.failed:
            continue
        # In this order: a version that comes in between has read signals, and `commit` says so.
        base = states.current(user)
        most = None if per_round is None else max(per_round, at_least)
        pending = tuple(states.pending(user, most))
        if pending and len(pending) >= at_least:
            rounds.append(_Round(user, base, pending[:per_round]))
    return rounds


def _keep(
    states: UserStates,
    own: _Round,
    outcome: WrittenDescription | NotDescribed,
    caught_up: CaughtUp,
    report: Callable[[Version], None],
) -> None:
    if isinstance(outcome, NotDescribed):
        caught_up.failed[own.user] = outcome
        return
    try:
        version = states.commit(own.user, own.base, own.pending, outcome)
    except StaleBaseError:
        caught_up.overtaken[own.user] += 1
        return
    caught_up.versions.append(version)
    report(version)

"""Questions whose answers are known: a judge that gets them wrong is none to train against."""

from __future__ import annotations

from typing import NamedTuple

from statsmodels.stats.proportion import proportion_confint

from alignxplore_trl.data.world import OPPOSITE, WORDINGS
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences

_POSTS = ("buying boots online", "painting chairs upstairs", "fixing bikes together")
_WORDINGS = {pole: words for poles in WORDINGS.values() for pole, words in poles.items()}
# Two wordings of the pole that the description names against two of its opposite, in words that
# the small judges of the simulated world know, too.
LABELLED = [
    JudgedPair(
        key=f"{pole}-{n}",
        post=post,
        description=f"prefers {pole}",
        chosen=", ".join(_WORDINGS[pole][n : n + 2]),
        rejected=", ".join(_WORDINGS[opposite][n : n + 2]),
    )
    for pole, opposite in OPPOSITE.items()
    for n, post in enumerate(_POSTS)
]


class Answers(NamedTuple):
    """How many labelled questions a judge answered rightly, by the mean of both orders.

    `low` and `high` end Wilson's 95 % interval of that share; a judge whose `low` isn't above one
    half may be a coin.
    """

    right: int
    answered: int
    low: float
    high: float

    def __str__(self) -> str:
        counts = f"{self.right} of {len(LABELLED)} labelled questions right, {self.answered}"
        return f"{counts} answered (95 % interval {self.low:.0%} to {self.high:.0%})"


def ask_labelled(judge: Judge) -> Answers:
    """Ask a judge all labelled questions; one that isn't answered counts as wrong."""
    found = [own for own in preferences(judge, LABELLED, "both", seed=0) if own is not None]
    right = sum(own > 0.5 for own in found)
    low, high = proportion_confint(right, len(LABELLED), method="wilson")
    return Answers(right, len(found), float(low), float(high))

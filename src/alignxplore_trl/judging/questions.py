"""Questions whose answers are known: a judge that gets them wrong is none to train against."""

from __future__ import annotations

from dataclasses import dataclass

from statsmodels.stats.proportion import proportion_confint

from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences

_POSTS = ("buying boots online", "painting chairs upstairs", "fixing bikes together")
_WORDINGS = {
    pole: [wording for wording, own in POLE_OF_WORDING.items() if own == pole] for pole in OPPOSITE
}
# Two wordings of the pole that the description names against two of its opposite, in words that
# the small judges of the simulated world know, too.
LABELLED = [
    JudgedPair(
        key=f"{pole}-{number}",
        post=post,
        description=f"prefers {pole}",
        chosen=", ".join(_WORDINGS[pole][number : number + 2]),
        rejected=", ".join(_WORDINGS[OPPOSITE[pole]][number : number + 2]),
    )
    for pole in OPPOSITE
    for number, post in enumerate(_POSTS)
]


@dataclass(frozen=True)
class Answers:
    """How many of the labelled questions a judge answered rightly, as the mean of both orders.

    `low` and `high` are the ends of Wilson's 95 % interval of the share of right answers.
    """

    asked: int
    answered: int
    right: int
    low: float
    high: float

    @property
    def is_above_chance(self) -> bool:
        return self.low > 0.5

    def __str__(self) -> str:
        return (
            f"{self.right} of {self.asked} labelled questions right, {self.answered} answered "
            f"(95 % interval {self.low:.0%} to {self.high:.0%})"
        )


def ask_labelled(judge: Judge) -> Answers:
    """Ask a judge all labelled questions; one that isn't answered counts as wrong."""
    found = [own for own in preferences(judge, LABELLED, "both", seed=0) if own is not None]
    right = sum(own > 0.5 for own in found)
    low, high = proportion_confint(right, len(LABELLED), method="wilson")
    return Answers(len(LABELLED), len(found), right, float(low), float(high))

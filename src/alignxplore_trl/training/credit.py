"""Credit across rounds: a rollout also earns a part of what the next round earned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What a judge at chance gives.
CHANCE = 0.5


def credited_rewards(
    rewards: NDArray[np.float64], drawn: NDArray[np.bool_], credit: float
) -> NDArray[np.float64]:
    """Add to each round's rewards a part of the next round's, from the last round back (METHOD 7).

    With m the mean credited reward of a case in round k + 1, the rollout of round k that the case
    went on from earns `credit` x m beside its own reward; each other one the constant `credit` x
    b(k + 1), where b is what m is at chance: b(last) = 1/2 and b(k) = 1/2 + credit x b(k + 1). So
    the drawn rollout gains where the next round went better than chance and loses where it went
    worse. A case that went on from no rollout, or whose next round wasn't scored, counts as at
    chance. Rewards and `drawn`, whether the next round started from a rollout's description, have
    the shape (rounds, cases, rollouts); a reward that is NaN was not scored, and stays so.
    """
    credited, baseline = rewards.copy(), CHANCE
    for number in reversed(range(len(rewards) - 1)):
        following = credited[number + 1]
        scored = ~np.isnan(following)
        total = np.where(scored, following, 0.0).sum(axis=1)
        mean = np.where(scored.any(axis=1), total / np.maximum(scored.sum(axis=1), 1), baseline)
        credited[number] += credit * np.where(drawn[number], mean[:, None], baseline)
        baseline = CHANCE + credit * baseline
    return credited

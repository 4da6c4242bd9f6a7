"""Credit across rounds: a rollout also earns a part of what the round after it earned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float64]
Flags = NDArray[np.bool_]

# What TRL adds to a group's standard deviation.
_EPSILON = 1e-4


def credited_rewards(rewards: Rewards, well_formed: Flags, drawn: Flags, credit: float) -> Rewards:
    """Rewards with credit for the round after, from the last round back (AlignXplore+).

    With m the mean credited reward of a case in round k + 1, the rollout of round k that the case
    went on from earns `credit` x m beside its own reward, and its other well-formed rollouts half
    of that. Malformed ones earn nothing beside their own. A case that went on from no rollout, or
    whose next round was not scored at all, earns none.

    Args:
        rewards: shape (rounds, cases, rollouts), NaN where a rollout was not scored.
        well_formed: of the same shape: whether a rollout could be read.
        drawn: of the same shape: whether the next round started from this rollout's description; of
            a case at most one in a round, and none in the last.
        credit: part of the next round's mean reward, 0.9 as published.

    Returns:
        The credited rewards; NaN stays NaN.
    """
    credited = rewards.copy()
    went_on = drawn.any(axis=-1, keepdims=True)
    parts = credit * np.where(drawn, 1.0, 0.5) * (well_formed & went_on)
    for number in reversed(range(len(rewards) - 1)):
        credited[number] += parts[number] * np.nan_to_num(_mean(credited[number + 1]))
    return credited


def group_advantages(rewards: Rewards) -> Rewards:
    """(R - mean) / (standard deviation + 1e-4) over the last axis, as TRL's scale_rewards="group".

    Rollouts that were not scored (NaN) are no part of mean and deviation, and have advantage 0.
    """
    centred = rewards - _mean(rewards)
    degrees = np.maximum(_count(rewards) - 1, 1)
    deviation = np.sqrt(np.nansum(centred**2, axis=-1, keepdims=True) / degrees)
    return np.asarray(np.nan_to_num(centred / (deviation + _EPSILON)))


def credit_metrics(rewards: Rewards, credited: Rewards, drawn: Flags) -> dict[str, float]:
    """What credit came to in a block, by name; a round of which nothing was scored has none.

    `credit/round_<k>` is the mean over the scored rollouts of the round, `credit/cases_without` the
    share of cases, over all rounds but the last, that earned none, and
    `credit/frac_reward_zero_std` the share of groups that teach nothing with credit.
    """
    scored = ~np.isnan(rewards)
    given = credited - rewards
    metrics = {
        f"credit/round_{number}": float(given[number - 1][scored[number - 1]].mean())
        for number in range(1, len(rewards))
        if scored[number - 1].any()
    }
    earned = drawn[:-1].any(axis=-1) & scored[1:].any(axis=-1)
    teaches = ~np.isclose(group_advantages(credited), 0).all(axis=-1)
    return {
        **metrics,
        "credit/cases_without": float(1 - earned.mean()),
        "credit/frac_reward_zero_std": float(1 - teaches.mean()),
    }


def credit_problems(
    credit: float, rounds: int, steps_per_generation: int, gradient_accumulation_steps: int
) -> list[str]:
    """What keeps all rounds of a block out of one optimizer update, in words with arithmetic.

    Credit goes from a round to the one before, so that both have to be rollouts of one policy. A
    checkpoint, which is taken between updates, then lies between blocks, too.
    """
    if credit == 0:
        return []
    if rounds == 1:
        return [f"round_credit: {credit:g} found, expected 0 with one round: none comes after it"]
    needed = rounds * steps_per_generation
    if gradient_accumulation_steps == needed:
        return []
    return [
        f"round_credit: {credit:g} needs all rounds of a block in one update: {rounds} rounds x "
        f"steps_per_generation {steps_per_generation} = {needed} micro-batches, but "
        f"trainer.gradient_accumulation_steps is {gradient_accumulation_steps}; set "
        f"trainer.gradient_accumulation_steps={needed}"
    ]


def _count(rewards: Rewards) -> NDArray[np.int64]:
    return np.asarray((~np.isnan(rewards)).sum(axis=-1, keepdims=True))


def _mean(rewards: Rewards) -> Rewards:
    """Over what was scored of the last axis, which is kept; NaN where nothing was."""
    count = _count(rewards)
    total = np.nansum(rewards, axis=-1, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

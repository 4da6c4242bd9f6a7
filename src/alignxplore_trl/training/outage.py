"""When the judge of training doesn't answer: all processes decide the same, and none hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object

from alignxplore_trl.run.errors import UserError

Reward = Callable[..., list[float | None]]

logger = get_logger(__name__)


@dataclass(frozen=True)
class OutageSettings:
    """What is done with a generation batch that the judge didn't answer.

    Attributes:
        share: more unscored completions than this, of the well-formed ones, are an outage; such a
            batch is not trained on.
        action: `wait` asks again, `abort` ends the run.
        pause_seconds: between two attempts.
        limit_seconds: a run that has waited so long for one batch ends.
    """

    share: float
    action: Literal["wait", "abort"]
    pause_seconds: float
    limit_seconds: float


class ContainedReward:
    """A reward callable whose exceptions wait until every process can hear of them.

    TRL gathers rewards over processes with a collective: an exception on one of them would leave
    the others in it for ever. Here it becomes `None` for the whole batch, and is kept.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.__name__ = getattr(reward, "__name__", type(reward).__name__)
        self.error: Exception | None = None

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        """The rewards, or `None` for each completion where computing them failed."""
        self.error = None
        try:
            return self.reward(completions=completions, **columns)
        except Exception as error:
            self.error = error
            return [None] * len(completions)


def raise_together(error: Exception | None) -> None:
    """Raise on every process if there is an error on any; a collective, so all have to call it.

    Raises:
        Exception: this process's own error, where it has one.
        RuntimeError: names the errors of other processes.
    """
    messages = gather_object([None if error is None else f"{type(error).__name__}: {error}"])
    if error is not None:
        raise error
    others = [f"process {rank}: {text}" for rank, text in enumerate(messages) if text is not None]
    if others:
        raise RuntimeError("the reward failed on " + "; ".join(others))


def answered_rewards(
    ask: Callable[[], torch.Tensor],
    well_formed: int,
    settings: OutageSettings,
    sleep: Callable[[float], None] = time.sleep,
) -> torch.Tensor:
    """Ask for the rewards of a generation batch until enough of them are answered.

    A collective: the share and the time are those of all processes together, so that each of them
    asks again or ends when the others do.

    Args:
        ask: asks for the rewards of all processes' completions, shape (completions, 1), NaN for
            `None`; called once for each attempt.
        well_formed: completions on all processes that the judge can be asked about.
        settings: when it is an outage, and what is done then.
        sleep: waits between attempts.

    Raises:
        UserError: the judge is out, and the settings say to abort, or the limit is reached.
    """
    begun = time.monotonic()
    while True:
        rewards = ask()
        unscored = int(rewards.isnan().all(dim=1).sum())
        if unscored <= settings.share * well_formed:
            return rewards
        waited = max(gather_object([time.monotonic() - begun]))
        told = (
            f"the judge gave no answer on {unscored} of {well_formed} well-formed completions "
            f"(at most a share of {settings.share:g} is accepted)"
        )
        if settings.action == "abort" or waited + settings.pause_seconds > settings.limit_seconds:
            raise UserError(
                f"judge: {told}, after {waited:.0f} s; this batch was not trained on. See that the "
                "judge answers, and give the same command again: it goes on from the last "
                "checkpoint, which lies before this batch. reward.outage says when to wait"
            )
        logger.warning(f"{told}; asking again in {settings.pause_seconds:g} s")
        sleep(settings.pause_seconds)

"""What is asked of a model that describes users, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignxplore_trl.signals import Signal
from alignxplore_trl.text.parsing import FormatProblem


@dataclass(frozen=True)
class DescriptionRequest:
    """A user to describe.

    Attributes:
        signals: what the user did, in the order in which it happened.
        earlier: the description to update; `None` for a user of whom there is none yet.
    """

    signals: tuple[Signal, ...]
    earlier: str | None = None


@dataclass(frozen=True)
class WrittenDescription:
    """What a model made of some signals, and what that took.

    Attributes:
        description: the description.
        reasoning: what was thought before it; empty where the model doesn't reason.
        model: the model that wrote it, by name or folder.
        prompt_tokens: that it was given.
        completion_tokens: that it wrote, over all attempts.
        dropped_signals: that didn't fit into the prompt.
        shortened_texts: that were cut to fit.
        attempts: completions until one was well-formed, this one included.
    """

    description: str
    reasoning: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    dropped_signals: int = 0
    shortened_texts: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class NotDescribed:
    """A request that came to nothing.

    Attributes:
        reason: what was wrong with the last completion; `unanswered` where there was none, and
            `too_long` where no prompt can be made short enough.
        told: the same for a person.
        attempts: completions that were asked for.
    """

    reason: FormatProblem | Literal["unanswered", "too_long"]
    told: str
    attempts: int


class NotDescribedError(Exception):
    """One request came to nothing; `outcome` says why."""

    def __init__(self, outcome: NotDescribed) -> None:
        self.outcome = outcome
        super().__init__(outcome.told)

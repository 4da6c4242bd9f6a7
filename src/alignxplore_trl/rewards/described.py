"""What every reward callable does: format, scores of well-formed completions, logs, counts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair
from alignxplore_trl.rewards.descriptions import description_metrics
from alignxplore_trl.rewards.shaping import NO_SHAPING, Shaping, shaped
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion

Outcome = Inference | FormatProblem


@dataclass(frozen=True)
class BatchCounts:
    """How many completions a call was given, could read, and could not score though it read them.

    Over several processes these add up; `unanswered / well_formed` is the share of an outage.
    """

    completions: int = 0
    well_formed: int = 0
    unanswered: int = 0


class DescriptionReward(ABC):
    """A score of the description, times R_format, as the one reward callable of a GRPO run.

    It is one callable on purpose: beside a second reward function, TRL would count a missing
    judgement as 0. A malformed completion earns the least reward there is and is asked about
    nowhere; what can't be scored is `None`, which TRL leaves out of its group.

    Args:
        shaping: what a right answer loses for its description's length and repetitions.
        opposites: words that contradict each other, for the metric that counts contradictions.

    Attributes:
        last_batch: what became of the completions of the last call.
    """

    # The name under which TRL logs the reward.
    __name__: str
    # Metrics stand under this word, and the measured number under that one.
    asked: ClassVar[str]
    measured: ClassVar[str]
    # The reward of a malformed completion, and that of a tie: what is above it is right.
    malformed: float = 0.0
    tie: float = 0.0

    def __init__(
        self, *, shaping: Shaping = NO_SHAPING, opposites: Mapping[str, str] | None = None
    ) -> None:
        self.shaping = shaping
        self.opposites = opposites
        self.last_batch = BatchCounts()

    @abstractmethod
    def take_measurements(self) -> Measurements:
        """What happened to the models asked since this was last called."""

    @abstractmethod
    def _measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        """What the reward is made of, for each pair; `None` where there was no answer."""

    @abstractmethod
    def _reward(self, number: float) -> float:
        """The reward for what was measured, before shaping."""

    def __call__(
        self,
        *,
        completions: Sequence[str],
        case_id: Sequence[str],
        post: Sequence[str],
        chosen: Sequence[str],
        rejected: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; the other arguments are the dataset's columns, one entry each."""
        started = time.perf_counter()
        outcomes = [parse_completion(completion) for completion in completions]
        pairs = {
            index: JudgedPair(case, text, outcome.description, winner, loser)
            for index, (outcome, case, text, winner, loser) in enumerate(
                zip(outcomes, case_id, post, chosen, rejected, strict=True)
            )
            if isinstance(outcome, Inference)
        }
        answers = dict(zip(pairs, self._measure(list(pairs.values())), strict=True))
        numbers = [answers.get(index) for index in range(len(outcomes))]
        self.last_batch = BatchCounts(
            len(outcomes), len(answers), sum(number is None for number in answers.values())
        )
        if log_metric is not None:
            self._log(log_metric, outcomes, numbers)
            log_metric("reward/seconds", time.perf_counter() - started)
        if log_extra is not None:
            log_extra(self.measured, numbers)
            log_extra("format", [_format_name(outcome) for outcome in outcomes])
        return [
            self._shaped_reward(outcome, number)
            for outcome, number in zip(outcomes, numbers, strict=True)
        ]

    def _shaped_reward(self, outcome: Outcome, number: float | None) -> float | None:
        if isinstance(outcome, FormatProblem):
            return self.malformed
        if number is None:
            return None
        reward = self._reward(number)
        if self.shaping.is_off:
            return reward
        return shaped(reward, self.tie, self.shaping.penalty(outcome.description))

    def _log(
        self,
        log_metric: Callable[[str, float], None],
        outcomes: Sequence[Outcome],
        numbers: Sequence[float | None],
    ) -> None:
        """Log the reward's components; a mean of nothing is left out.

        TRL averages over the processes that have a metric; a NaN would hide the others' values.
        """
        formats = Counter(_format_name(outcome) for outcome in outcomes)
        for name in ("well_formed", *FormatProblem):
            log_metric(f"format/{name}", formats[name] / len(outcomes))
        counts = self.last_batch
        log_metric(f"{self.asked}/failed_share", counts.unanswered / max(1, counts.well_formed))
        answered = [number for number in numbers if number is not None]
        if answered:
            log_metric(f"{self.asked}/{self.measured}", sum(answered) / len(answered))
        descriptions = [each.description for each in outcomes if isinstance(each, Inference)]
        metrics = description_metrics(descriptions, self.opposites)
        if descriptions and not self.shaping.is_off:
            penalties = [self.shaping.penalty(description) for description in descriptions]
            metrics["description/penalty"] = sum(penalties) / len(penalties)
        for name, value in metrics.items():
            log_metric(name, value)


def _format_name(outcome: Outcome) -> str:
    return outcome.value if isinstance(outcome, FormatProblem) else "well_formed"

"""The raw log-probability reward: which reply does a generator find the more probable one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from alignxplore_trl.judging.generator import Continuation, Generator
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair
from alignxplore_trl.rewards.described import DescriptionReward
from alignxplore_trl.rewards.responses import aggregated, difference
from alignxplore_trl.rewards.shaping import NO_SHAPING, Shaping


class LogProbabilityReward(DescriptionReward):
    """1 if, given the description, the preferred reply is the more probable one.

    `1[log p(y_w|x,d) > log p(y_l|x,d)]` (METHOD: Rewards, what the paper names as future work), 0
    for a malformed completion and for a tie, `None` where either term is missing. Without the terms
    that R_gen subtracts, the description has to make up for whatever else makes a reply improbable.

    Args:
        generator: the frozen model.
        aggregation: `sum` over a reply's tokens, or their `mean`, the score of SimPO.
        margin: by how many nats the preferred reply has to be ahead.
        shaping, opposites: as for `DescriptionReward`.
    """

    __name__ = "log_probability"
    asked = "generator"
    measured = "difference_of_log_probabilities"

    def __init__(
        self,
        generator: Generator,
        *,
        aggregation: Literal["sum", "mean"] = "sum",
        margin: float = 0.0,
        shaping: Shaping = NO_SHAPING,
        opposites: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(shaping=shaping, opposites=opposites)
        self.generator = generator
        self.aggregation = aggregation
        self.margin = margin

    def take_measurements(self) -> Measurements:
        """What happened to the generator since this was last called."""
        return self.generator.take_measurements()

    def _measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        """By how many nats the preferred reply is ahead."""
        answers = self.generator.log_probabilities(
            [
                Continuation(pair.post, pair.description, response)
                for pair in pairs
                for response in (pair.chosen, pair.rejected)
            ]
        )
        scores = [aggregated(tokens, self.aggregation) for tokens in answers]
        return [difference(*of_pair) for of_pair in zip(scores[::2], scores[1::2], strict=True)]

    def _reward(self, number: float) -> float:
        return float(number > self.margin)

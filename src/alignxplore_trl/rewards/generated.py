"""R_gen x R_format: does the description help a generator more to the reply the user preferred?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alignxplore_trl.judging.generator import Continuation, Generator
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair
from alignxplore_trl.rewards.described import DescriptionReward
from alignxplore_trl.rewards.responses import Aggregation, aggregated, difference
from alignxplore_trl.rewards.shaping import NO_SHAPING, Shaping

# With `mean_probability` the comparison of the published code: a ratio above 1.03.
PUBLISHED_MARGIN = math.log(1.03)


class GeneratedReward(DescriptionReward):
    """1 if the description raises the preferred reply's log-probability more than the other's.

    R_gen (METHOD: Rewards):
    `1[log p(y_w|x,d) - log p(y_w|x) > log p(y_l|x,d) - log p(y_l|x)]`, 0 for a malformed
    completion and for a tie, `None` where any of the four terms is missing. The terms without d are
    asked for as rows without a description; the generator keeps them.

    Args:
        generator: the frozen model.
        aggregation: how a response's token log-probabilities become one number; `sum` is the
            method's.
        margin: by how many nats the left side has to be the greater one. The published code is
            `mean_probability` with `PUBLISHED_MARGIN`; 0 is the method's.
        shaping, opposites: as for `DescriptionReward`.
    """

    __name__ = "generated"
    asked = "generator"
    measured = "difference_of_gains"

    def __init__(
        self,
        generator: Generator,
        *,
        aggregation: Aggregation = "sum",
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
        """By how many nats the description helps the preferred reply more than the other one."""
        return differences_of_gains(self.generator, pairs, self.aggregation)

    def _reward(self, number: float) -> float:
        return float(number > self.margin)


def differences_of_gains(
    generator: Generator, pairs: Sequence[JudgedPair], aggregation: Aggregation = "sum"
) -> list[float | None]:
    """Both sides of R_gen's comparison subtracted, in nats: above 0 the preferred reply gains more.

    `None` where any of a pair's four terms is missing. All terms are asked for in one call, those
    without a description as rows of their own, so that a generator can put equal ones together.
    """
    answers = iter(
        generator.log_probabilities(
            [
                Continuation(pair.post, description, response)
                for pair in pairs
                for response in (pair.chosen, pair.rejected)
                for description in (pair.description, None)
            ]
        )
    )
    scores = (aggregated(tokens, aggregation) for tokens in answers)
    gains = [difference(next(scores), next(scores)) for _ in range(2 * len(pairs))]
    return [difference(*of_pair) for of_pair in zip(gains[::2], gains[1::2], strict=True)]

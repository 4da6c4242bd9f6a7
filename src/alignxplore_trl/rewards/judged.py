"""R_jud x R_format: does a judge, given the description, prefer the reply the user preferred?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.panel import Panel
from alignxplore_trl.judging.protocol import Judge, JudgedPair, Order, preferences
from alignxplore_trl.rewards.described import DescriptionReward, Outcome
from alignxplore_trl.rewards.shaping import NO_SHAPING, Shaping
from alignxplore_trl.text.parsing import FormatProblem

Score = Literal["win", "probability", "margin"]


class JudgedReward(DescriptionReward):
    """What the judge's preference for the right reply is worth.

    With P = P_jud(y_w | x, d), and P_jud(y_l | x, d) = 1 - P:

    - `win`: R_jud (METHOD: Rewards), `1[P > 1 - P]`; a tie is no win; 0 if malformed.
    - `probability`: P; 0 if malformed. As in AlignXplore+ (METHOD: Later results).
    - `margin`: P - (1 - P) = 2P - 1, from -1 to 1; -1 if malformed. With 0, the product with
      R_format, breaking the format would pay for whoever expects to be wrong. Where GRPO divides
      by the group's deviation, this is the same as `probability`.

    So no malformed completion earns more than a well-formed one.

    Args:
        judge: the judging model, or a panel of them.
        order: `random` (one order per case, by the seed) or `both` (the mean of the two).
        seed: of the random order.
        score: what the reward is.
        shaping, opposites: as for `DescriptionReward`.
    """

    __name__ = "judged"
    asked = "judge"
    measured = "probability_of_chosen"

    def __init__(
        self,
        judge: Judge | Panel,
        order: Order,
        seed: int,
        *,
        score: Score = "win",
        shaping: Shaping = NO_SHAPING,
        opposites: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(shaping=shaping, opposites=opposites)
        self.judge = judge
        self.order = order
        self.seed = seed
        self.score = score
        self.malformed = -1.0 if score == "margin" else 0.0
        self.tie = 0.5 if score == "probability" else 0.0
        self._position_gaps: list[float] = []

    def take_measurements(self) -> Measurements:
        """What happened to the judge, or to all judges of the panel, since this was last called."""
        gaps, self._position_gaps = self._position_gaps, []
        return self.judge.take_measurements() + Measurements(position_gaps=gaps)

    def _measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        if isinstance(self.judge, Panel):
            found = self.judge.preferences(pairs, self.order, self.seed)
        else:
            found = preferences(self.judge, pairs, self.order, self.seed)
        self._position_gaps += [
            own.position_gap for own in found if own is not None and own.position_gap is not None
        ]
        return [None if own is None else own.probability for own in found]

    def _reward(self, number: float) -> float:
        match self.score:
            case "win":
                return float(number > 0.5)
            case "probability":
                return number
            case "margin":
                return 2 * number - 1


def reward_of(outcome: Outcome, probability: float | None) -> float | None:
    """R_jud x R_format of one parsed completion and the judge's probability of the right reply."""
    if isinstance(outcome, FormatProblem):
        return 0.0
    return None if probability is None else float(probability > 0.5)

"""Several judges as one, against a policy that learns the weakness of a single judge."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Judge, JudgedPair, Order, Preference, preferences

Agreement = Literal["mean", "all"]


class Panel:
    """Several judges, asked the same and combined in what they think of the chosen reply.

    They are combined after each judge's order of the responses is undone. Before that, on verdicts,
    `all` could not be said of both orders: a judge may name the chosen reply in one and deny it in
    sum.

    Args:
        judges: at least one.
        agreement: `mean` averages the judges' probabilities of the chosen reply; `all` takes the
            least of them, so that it is above one half only if every judge prefers that reply.

    Raises:
        ValueError: no judges.
    """

    def __init__(self, judges: Sequence[Judge], agreement: Agreement) -> None:
        if not judges:
            raise ValueError("judges: none found, expected at least one")
        self.judges = tuple(judges)
        self.agreement = agreement

    def preferences(
        self, pairs: Sequence[JudgedPair], order: Order, seed: int
    ) -> list[Preference | None]:
        """What the panel thinks of each pair, as the function of this name; the mean of the gaps.

        `None` where any of the judges gave no answer: fewer judges would be another panel.
        """
        opinions = [preferences(judge, pairs, order, seed) for judge in self.judges]
        return [self._combined(own) for own in zip(*opinions, strict=True)]

    def take_measurements(self) -> Measurements:
        """What happened to all judges since this was last called."""
        return sum((judge.take_measurements() for judge in self.judges), Measurements())

    def _combined(self, opinions: Sequence[Preference | None]) -> Preference | None:
        known = [opinion for opinion in opinions if opinion is not None]
        if len(known) < len(opinions):
            return None
        probabilities = [opinion.probability for opinion in known]
        gaps = [opinion.position_gap for opinion in known if opinion.position_gap is not None]
        return Preference(
            min(probabilities) if self.agreement == "all" else fmean(probabilities),
            fmean(gaps) if gaps else None,
        )

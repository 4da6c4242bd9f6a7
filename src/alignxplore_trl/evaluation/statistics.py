"""Intervals that respect that cases of one user (or one target) are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; all `None` where there is nothing to estimate it from.

    The interval alone is `None` when fewer than two clusters carry information: the bootstrap
    then knows nothing about how the value varies.
    """

    value: float | None
    low: float | None
    high: float | None


class ClusteredBootstrap:
    """Percentile bootstrap over clusters of cases (Efron & Tibshirani 1993, ch. 8 and 13).

    Whole clusters are drawn with replacement. Every statistic is a ratio of two sums over cases,
    so a mean over a changing number of cases is resampled right. One instance serves all methods
    of a benchmark: they are resampled alike, which costs one matrix product each.

    A value that is the same in every case (all right, all wrong) has an interval of no width: the
    sample shows no variation, which doesn't prove that there is none.

    Args:
        clusters: the cluster of each case.
        samples: how many times clusters are drawn.
        level: the share of the bootstrap distribution inside the interval.
        seed: seeds the draws.

    Raises:
        ValueError: there is no case.
    """

    def __init__(
        self, clusters: Sequence[str], samples: int = 2000, level: float = 0.95, seed: int = 0
    ) -> None:
        if not clusters:
            raise ValueError("no cases: an interval needs at least one cluster")
        names, self._cluster_of_case = np.unique(
            np.asarray(clusters, dtype=str), return_inverse=True
        )
        self._count = len(names)
        draws = np.random.default_rng(seed)
        share = np.full(self._count, 1 / self._count)
        # times_drawn[sample, cluster]
        self._times_drawn = draws.multinomial(self._count, share, size=samples).astype(np.float64)
        self._tails = ((1 - level) / 2, (1 + level) / 2)

    def ratio(self, numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
        """Sum of `numerators` over sum of `denominators`, both of shape [cases].

        A case that does not take part has 0 in both.
        """
        above, below = self._per_cluster(numerators), self._per_cluster(denominators)
        if below.sum() == 0:
            return Estimate(None, None, None)
        value = float(above.sum() / below.sum())
        if np.count_nonzero(below) < 2:
            return Estimate(value, None, None)
        sums_below = self._times_drawn @ below
        drawn = sums_below > 0
        resampled = (self._times_drawn @ above)[drawn] / sums_below[drawn]
        low, high = np.quantile(resampled, self._tails)
        return Estimate(value, float(low), float(high))

    def mean(self, values: Sequence[float | None]) -> Estimate:
        """Mean over the cases whose value is not `None`."""
        return self._mean_of_known(as_floats(values))

    def difference(self, first: Sequence[float | None], second: Sequence[float | None]) -> Estimate:
        """Mean of `first − second` over the cases where both are known: a paired comparison."""
        return self._mean_of_known(as_floats(first) - as_floats(second))

    def _mean_of_known(self, values: Floats) -> Estimate:
        known = ~np.isnan(values)
        return self.ratio(np.where(known, values, 0.0), known)

    def _per_cluster(self, values: ArrayLike) -> Floats:
        sums: Floats = np.zeros(self._count)
        np.add.at(sums, self._cluster_of_case, np.asarray(values, dtype=np.float64))
        return sums


def as_floats(values: Sequence[float | None]) -> Floats:
    """Values as an array in which an unknown one is NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

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
        values, draws = self._ratios(np.atleast_2d(numerators), np.atleast_2d(denominators))
        return self._estimate(values[0], draws[:, 0])

    def mean(self, values: Sequence[float | None]) -> Estimate:
        """Mean over the cases whose value is not `None`."""
        return self.means([values])[0]

    def means(self, rows: Sequence[Sequence[float | None]]) -> list[Estimate]:
        """`mean` of each of several rows of values, at the cost of one matrix product."""
        values, draws = self._means(np.stack([as_floats(row) for row in rows]))
        return [self._estimate(*own) for own in zip(values, draws.T, strict=True)]

    def difference(self, first: Sequence[float | None], second: Sequence[float | None]) -> Estimate:
        """Mean of `first − second` over the cases where both are known: a paired comparison."""
        values, draws = self._means(np.atleast_2d(as_floats(first) - as_floats(second)))
        return self._estimate(values[0], draws[:, 0])

    def contrast(self, first: Sequence[float | None], second: Sequence[float | None]) -> Estimate:
        """Mean of `first` minus mean of `second`, each over the cases where it is known.

        This compares groups of cases; a cluster that has cases in both is drawn for both at once.
        """
        values, draws = self._means(np.stack([as_floats(first), as_floats(second)]))
        return self._estimate(values[0] - values[1], draws[:, 0] - draws[:, 1])

    def _means(self, rows: Floats) -> tuple[Floats, Floats]:
        known = ~np.isnan(rows)
        return self._ratios(np.where(known, rows, 0.0), known)

    def _ratios(self, numerators: ArrayLike, denominators: ArrayLike) -> tuple[Floats, Floats]:
        """Ratios of sums, of shape [ratios], and resampled ones, of shape [samples, ratios].

        Both arguments are of shape [ratios, cases]. What can't be known is NaN: a ratio without a
        case that takes part, a draw without one, and all draws where fewer than two clusters do.
        """
        above, below = self._per_cluster(numerators), self._per_cluster(denominators)
        draws = _divided(self._times_drawn @ above, self._times_drawn @ below)
        draws[:, np.count_nonzero(below, axis=0) < 2] = np.nan
        return _divided(above.sum(axis=0), below.sum(axis=0)), draws

    def _per_cluster(self, rows: ArrayLike) -> Floats:
        """Sums over the cases of each cluster: [rows, cases] becomes [clusters, rows]."""
        by_case = np.asarray(rows, dtype=np.float64).T
        sums: Floats = np.zeros((self._count, by_case.shape[1]))
        np.add.at(sums, self._cluster_of_case, by_case)
        return sums

    def _estimate(self, value: float, draws: Floats) -> Estimate:
        if np.isnan(value):
            return Estimate(None, None, None)
        known = draws[~np.isnan(draws)]
        if not known.size:
            return Estimate(float(value), None, None)
        low, high = np.quantile(known, self._tails)
        return Estimate(float(value), float(low), float(high))


def _divided(above: Floats, below: Floats) -> Floats:
    """The quotient, NaN where there is nothing to divide by."""
    quotient: Floats = np.full_like(above, np.nan)
    return np.divide(above, below, out=quotient, where=below > 0)


def as_floats(values: Sequence[float | None]) -> Floats:
    """Values as an array in which an unknown one is NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

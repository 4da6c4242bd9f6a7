"""Means, paired differences and intervals: clustered by user, or with trainings as the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

Pair = tuple[str, str]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        value: the mean; `None` where nothing is known.
        low, high: of the interval; `None` where nothing is known of how the mean varies.
        p: two-sided, of "the mean is 0".
        n: how many values the mean is over.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0


def estimate(
    values: ArrayLike,
    units: Sequence[str],
    weights: ArrayLike | None = None,
    *,
    share: bool = False,
) -> Estimate:
    """The mean of the known values, with standard errors clustered by unit.

    With one value a unit the p-value is that of the t-test; of differences, of the paired t-test.

    Args:
        values: NaN where unknown; those are left out.
        units: what makes values depend on each other, such as their user.
        weights: of the mean. A ratio of two sums is the mean of the ratios by their denominators.
        share: the values are shares of 1. If all are 0, or all are 1, they don't show how they vary;
            the interval is Wilson's then, of as many draws as there are units.
    """
    numbers = np.asarray(values, dtype=float)
    factors = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=float)
    known = ~np.isnan(numbers) & (factors > 0)
    numbers, factors = numbers[known], factors[known]
    if not len(numbers):
        return Estimate()
    codes, names = pd.factorize(np.asarray(units, dtype=object)[known])
    mean, count = float(np.average(numbers, weights=factors)), len(numbers)
    if np.ptp(numbers) == 0:
        if share and mean in (0.0, 1.0):
            low, high = proportion_confint(mean * len(names), len(names), method="wilson")
            return Estimate(mean, float(low), float(high), None, count)
        return Estimate(mean, p=float(mean == 0), n=count)
    if len(names) < 2:
        return Estimate(mean, n=count)
    fit = WLS(numbers, np.ones(count), weights=factors).fit(
        cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
    )
    ((low, high),) = fit.conf_int()
    return Estimate(mean, float(low), float(high), float(fit.pvalues[0]), count)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number by Holm's procedure (1979); `None` isn't counted."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in p_values]


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over trainings of several seeds, which are the unit: Student's interval."""
    return estimate(list(values), [str(number) for number in range(len(values))])


@dataclass(frozen=True)
class SeedDifference:
    """What two variants of a training differ by.

    Attributes:
        estimate: of the difference, over the seeds that both were trained with.
        holds: whether the difference has one sign in every seed, and its interval excludes 0.
    """

    estimate: Estimate
    holds: bool


def difference_over_seeds(
    first: Mapping[int, float], second: Mapping[int, float]
) -> SeedDifference:
    """First minus second, with the seeds as the unit; each seed's difference is one value."""
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    found = over_seeds(differences)
    if found.value and len(differences) > 1 and np.ptp(differences) == 0:
        # Without any spread over the seeds, the interval is a point.
        found = Estimate(found.value, found.value, found.value, found.p, found.n)
    one_sign = len({np.sign(own) for own in differences}) == 1
    excludes_0 = found.low is not None and found.high is not None and found.low * found.high > 0
    return SeedDifference(found, one_sign and excludes_0)


def compare_variants(values: pd.DataFrame, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Variants of a training against each other, for every figure, with the seeds as the unit.

    Args:
        values: columns `figure`, `variant`, `seed` and `value`.
        pairs: variants whose difference, first minus second, is wanted.

    Returns:
        One row per figure and pair: `figure`, `first`, `second`, the fields of `Estimate`, `holds`,
        and `p_holm`, corrected over the pairs of a figure.
    """
    frames = []
    for figure, own in values.dropna(subset=["value"]).groupby("figure", sort=False):
        by_seed = {
            variant: dict(zip(of.seed, of.value, strict=True))
            for variant, of in own.groupby("variant")
        }
        rows = []
        for first, second in pairs:
            found = difference_over_seeds(by_seed.get(first, {}), by_seed.get(second, {}))
            rows.append(
                {"figure": figure, "first": first, "second": second}
                | asdict(found.estimate)
                | {"holds": found.holds}
            )
        frame = pd.DataFrame(rows)
        frames.append(frame.assign(p_holm=holm([row["p"] for row in rows])))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

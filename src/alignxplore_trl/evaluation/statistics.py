"""Means, differences and their intervals: clustered by user, or with trainings as the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.regression.linear_model import WLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values with its 95 % interval, and the two-sided p of "the mean is 0".

    All are `None` where nothing is known, and the interval where nothing is known of how it varies.
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

    With one value a unit this is the t-test; of differences, the paired t-test.

    Args:
        values: NaN where unknown; those are left out.
        units: what makes values depend on each other, such as their user.
        weights: a ratio of two sums is the mean of the ratios, weighted by their denominators.
        share: the values are shares of 1. Where all are 0, or all are 1, they don't show how they
            vary; the interval is Wilson's then, of as many draws as there are units.
    """
    numbers = np.asarray(values, dtype=float)
    factors = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=float)
    known = ~np.isnan(numbers) & (factors > 0)
    numbers, factors = numbers[known], factors[known]
    if not (count := len(numbers)):
        return Estimate()
    codes, names = pd.factorize(np.asarray(units, dtype=object)[known])
    mean, spread = float(np.average(numbers, weights=factors)), np.ptp(numbers)
    if spread == 0 and share and mean in (0.0, 1.0):
        low, high = proportion_confint(mean * len(names), len(names), method="wilson")
        return Estimate(mean, float(low), float(high), None, count)
    if spread == 0 or len(names) < 2:
        return Estimate(mean, p=None if spread else float(mean == 0), n=count)
    fit = WLS(numbers, np.ones(count), weights=factors).fit(
        cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
    )
    [[low, high]] = fit.conf_int()
    return Estimate(mean, float(low), float(high), float(fit.pvalues[0]), count)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number by Holm's procedure (1979); `None` isn't counted."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in p_values]


def compare_variants(values: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Variants of a training against each other, for every figure, with the seeds as the unit.

    From columns `figure`, `variant`, `seed` and `value`, one row per figure and pair: `figure`,
    `first`, `second`, the fields of `Estimate` of first minus second in the seeds that both have,
    and `holds`: it has one sign in every seed, and the interval excludes 0.
    """
    rows = []
    for figure, own in values.dropna(subset=["value"]).groupby("figure", sort=False):
        wide = own.pivot(index="seed", columns="variant", values="value")
        for first, second in pairs:
            each = wide.reindex(columns=[first, second]).dropna()
            differences = (each[first] - each[second]).to_numpy(dtype=float)
            found = estimate(differences, [str(seed) for seed in each.index])
            if len(each) > 1 and np.ptp(differences) == 0:  # The interval is a point.
                found = replace(found, low=found.value, high=found.value)
            signs = {np.sign(own) for own in (*differences, found.low or 0, found.high or 0)}
            names = {"figure": figure, "first": first, "second": second}
            rows.append({**names, **asdict(found), "holds": signs in ({1}, {-1})})
    return pd.DataFrame(rows)

"""Paired tests between two methods on the same cases, corrected for how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from alignxplore_trl.evaluation.statistics import Floats, as_floats


@dataclass(frozen=True)
class PairedTests:
    """Whether two methods differ in how many cases they get right.

    Attributes:
        cases: those on which both have a verdict.
        mcnemar_p: of McNemar's exact test, two-sided: a binomial test on the cases that only one of
            them gets right (McNemar 1947).
        t_test_p: of the paired t-test, two-sided (METHOD: Evaluation).

    A p-value is `None` where there are fewer than two cases.
    """

    cases: int
    mcnemar_p: float | None
    t_test_p: float | None


def paired_tests(first: Sequence[float | None], second: Sequence[float | None]) -> PairedTests:
    """Compare two methods over the cases where both are known.

    Both tests take the cases as independent of each other, while the intervals of
    `ClusteredBootstrap` allow for several cases of one user. Where clusters hold several cases the
    p-values are too small, and the interval of the difference is what to go by.

    Args:
        first: 1.0 for a case that the first method gets right, 0.0 for another one, `None` where
            that isn't known.
        second: the same of the second method, for the same cases in the same order.
    """
    a, b = as_floats(first), as_floats(second)
    known = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[known], b[known]
    if len(a) < 2:
        return PairedTests(len(a), None, None)
    table = [[np.sum((a == i) & (b == j)) for j in (1.0, 0.0)] for i in (1.0, 0.0)]
    return PairedTests(len(a), float(mcnemar(table, exact=True).pvalue), _t_test_p(a, b))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number, so that the chance of any false alarm stays bounded.

    Holm's step-down procedure (Holm 1979): the k-th smallest of m is multiplied by m - k + 1, is at
    least as large as the corrected one before it, and at most 1. `None` stays `None` and is no part
    of the number.
    """
    known = [value for value in p_values if value is not None]
    if not known:
        return list(p_values)
    corrected = iter(multipletests(known, method="holm")[1])
    return [None if value is None else float(next(corrected)) for value in p_values]


def _t_test_p(first: Floats, second: Floats) -> float:
    differences = first - second
    if np.ptp(differences) == 0:
        # Without spread there is no t: its limit is 0 for no difference, else infinite.
        return 0.0 if differences.any() else 1.0
    return float(stats.ttest_rel(first, second).pvalue)

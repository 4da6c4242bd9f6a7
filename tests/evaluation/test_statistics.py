"""Intervals and p-values against scipy and a few lines of numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alignxplore_trl.evaluation.statistics import compare_variants, estimate, holm

NAN = float("nan")


def test_with_one_case_a_user_p_is_that_of_the_paired_t_test() -> None:
    draws = np.random.default_rng(0)
    first, second = draws.integers(0, 2, (2, 60)).astype(float)
    users = [f"u{n}" for n in range(60)]

    found = estimate(first - second, users)

    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_cases_of_one_user_are_one_draw() -> None:
    values = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    users = ["a", "a", "b", "b", "c", "c", "d", "d"]

    found = estimate(values, users)

    sums = (values - values.mean()).reshape(4, 2).sum(axis=1)
    deviation = np.sqrt((sums**2).sum()) / 8 * np.sqrt(4 / 3 * 7 / 7)
    half = stats.t.ppf(0.975, 3) * deviation
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-9)


def test_a_ratio_of_sums_is_the_weighted_mean_of_ratios() -> None:
    true, stated = np.array([1.0, 2.0, 0.0, 3.0]), np.array([2.0, 2.0, 0.0, 4.0])
    with np.errstate(invalid="ignore"):
        found = estimate(true / stated, list("abcd"), stated, share=True)

    assert found.value == pytest.approx(6 / 8)
    assert found.n == 3


def test_without_spread_a_share_has_the_interval_of_wilson() -> None:
    found = estimate([1.0] * 50, [f"u{n % 25}" for n in range(50)], share=True)

    z = stats.norm.ppf(0.975)
    assert found.low == pytest.approx(25 / (25 + z**2))  # 25 users, not 50 cases.
    assert (found.value, found.high) == (1.0, 1.0)
    assert estimate([7.0, 7.0], ["a", "b"]).low is None


def test_what_is_unknown_is_left_out() -> None:
    assert estimate([1.0, NAN, 0.0, NAN], list("abcd")).n == 2
    assert estimate([NAN, NAN], ["a", "b"]).value is None
    assert estimate([1.0, 0.0], ["a", "a"]).low is None  # One user says nothing of others.


def test_holm_multiplies_the_smallest_most() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None]) == [None]


def compare(first: dict[int, float], second: dict[int, float]) -> pd.Series:
    rows = [
        {"figure": "acc_jud", "variant": name, "seed": seed, "value": value}
        for name, own in (("first", first), ("second", second))
        for seed, value in own.items()
    ]
    return compare_variants(pd.DataFrame(rows), [("first", "second")]).iloc[0]


@pytest.mark.parametrize(
    ("second", "holds"),
    [
        ([0.50, 0.52, 0.51], True),  # 10 points better in each seed.
        ([0.50, 0.63, 0.51], False),  # Once it is worse.
        ([0.59, 0.10, 0.60], False),  # Always better, by no amount that seeds agree on.
    ],
)
def test_a_difference_holds_if_every_seed_has_its_sign_and_the_interval_excludes_0(
    second: list[float], holds: bool
) -> None:
    first = [0.60, 0.62, 0.615]

    found = compare(dict(enumerate(first)), dict(enumerate(second)))

    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert found.n == 3  # Seeds are the unit, however many users each scored.
    assert found.holds == holds


def test_one_seed_holds_nothing_and_equal_differences_hold() -> None:
    assert not compare({0: 0.9, 1: 0.8}, {0: 0.1}).holds
    assert compare({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}).holds
    assert not compare({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}).holds

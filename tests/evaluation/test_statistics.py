"""The clustered bootstrap against closed forms, scipy, and its own coverage."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignxplore_trl.evaluation.statistics import ClusteredBootstrap, Estimate


def draws(seed, shape, mean=0.6):
    return (np.random.default_rng(seed).random(shape) < mean).astype(float)


def own_cluster_each(count):
    return [str(number) for number in range(count)]


def test_independent_cases_give_the_normal_interval():
    values = draws(0, 900)
    estimate = ClusteredBootstrap(own_cluster_each(900), samples=8000).mean(list(values))
    half = 1.96 * values.std() / np.sqrt(900)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.003)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.003)


def test_independent_cases_give_scipys_percentile_interval():
    values = np.random.default_rng(1).exponential(2.0, 80)
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(2)
    ).confidence_interval
    estimate = ClusteredBootstrap(own_cluster_each(80), samples=8000).mean(list(values))
    assert estimate.low == pytest.approx(reference.low, abs=0.04)
    assert estimate.high == pytest.approx(reference.high, abs=0.04)


def test_unequal_clusters_give_the_cluster_robust_error():
    """Delta method for a ratio of cluster sums: var = sum (s_c - mean * n_c)^2 / N^2."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 9, size=400)
    clusters = np.repeat(np.arange(400), sizes)
    values = (generator.random(len(clusters)) < generator.beta(2, 2, 400)[clusters]).astype(float)
    estimate = ClusteredBootstrap(list(map(str, clusters)), samples=8000).mean(list(values))
    residuals = np.bincount(clusters, values - values.mean())
    half = 1.96 * np.sqrt((residuals**2).sum()) / len(values)
    naive = 1.96 * values.std() / np.sqrt(len(values))
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.05)
    assert half > 1.3 * naive


def test_repeating_every_case_within_its_cluster_adds_no_certainty():
    values, clusters = list(draws(4, 100)), own_cluster_each(100)
    once = ClusteredBootstrap(clusters).mean(values)
    repeated = ClusteredBootstrap(clusters * 5).mean(values * 5)
    assert astuple(repeated) == pytest.approx(astuple(once))


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(5)
    clusters = np.repeat(np.arange(80), 4)
    bootstrap = ClusteredBootstrap(list(map(str, clusters)), samples=600)
    covered = paired_covered = 0
    for _ in range(500):
        users = np.clip(generator.normal(0.6, 0.2, 80), 0, 1)[clusters]
        truth, gain = 0.6, 0.1
        first = (generator.random(320) < users + gain * (users < 0.9)).astype(float)
        second = (generator.random(320) < users).astype(float)
        estimate = bootstrap.mean(list(second))
        covered += estimate.low <= truth <= estimate.high
        difference = bootstrap.difference(list(first), list(second))
        paired_covered += difference.low <= gain * stats.norm.cdf(1.5) <= difference.high
    assert 0.91 <= covered / 500 <= 0.98
    assert 0.91 <= paired_covered / 500 <= 0.98


def test_a_paired_difference_is_the_mean_of_differences():
    first, second = draws(6, 500, 0.7), draws(7, 500, 0.6)
    bootstrap = ClusteredBootstrap(own_cluster_each(500), samples=8000)
    estimate = bootstrap.difference(list(first), list(second))
    test = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert estimate.value == pytest.approx((first - second).mean())
    assert estimate.low == pytest.approx(test.low, abs=0.005)
    assert estimate.high == pytest.approx(test.high, abs=0.005)


def test_pairing_sees_a_small_gain_that_two_intervals_do_not():
    second = draws(8, 400)
    first = second.copy()
    first[np.flatnonzero(second == 0)[:12]] = 1.0
    bootstrap = ClusteredBootstrap(own_cluster_each(400))
    assert bootstrap.difference(list(first), list(second)).low > 0
    assert bootstrap.mean(list(first)).low < bootstrap.mean(list(second)).high


def test_groups_of_cases_differ_by_the_two_sample_interval():
    values = draws(10, 900)
    first = [value if number < 300 else None for number, value in enumerate(values)]
    second = [None if number < 300 else value for number, value in enumerate(values)]
    estimate = ClusteredBootstrap(own_cluster_each(900), samples=8000).contrast(first, second)
    half = 1.96 * np.sqrt(values[:300].var() / 300 + values[300:].var() / 600)
    assert estimate.value == pytest.approx(values[:300].mean() - values[300:].mean())
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.005)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.005)


def test_a_group_of_one_cluster_or_none_gives_no_interval():
    bootstrap = ClusteredBootstrap(["a", "b", "c"])
    assert bootstrap.contrast([1.0, 0.0, None], [None, None, 1.0]) == Estimate(-0.5, None, None)
    assert bootstrap.contrast([1.0, 0.0, 1.0], [None] * 3) == Estimate(None, None, None)


def test_several_means_at_once_are_those_of_each_alone():
    bootstrap = ClusteredBootstrap(["a", "a", "b", "c"])
    rows = [[1.0, 0.0, None, 1.0], [None] * 4, [None, 1.0, None, None]]
    assert bootstrap.means(rows) == [bootstrap.mean(row) for row in rows]


def test_unknown_values_are_left_out_not_counted_as_0():
    bootstrap = ClusteredBootstrap(own_cluster_each(5))
    assert bootstrap.mean([1.0, None, 1.0, None, 0.0]).value == pytest.approx(2 / 3)
    difference = bootstrap.difference([1.0, None, 1.0, 0.0, 0.0], [0.0, 1.0, None, 0.0, 0.0])
    assert difference.value == pytest.approx(1 / 3)


def test_nothing_known_gives_no_value_and_one_cluster_gives_no_interval():
    assert ClusteredBootstrap(["a", "b"]).mean([None, None]) == Estimate(None, None, None)
    assert ClusteredBootstrap(["a", "a"]).mean([1.0, 0.0]) == Estimate(0.5, None, None)
    assert ClusteredBootstrap(["a", "b"]).mean([1.0, None]) == Estimate(1.0, None, None)


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="no cases"):
        ClusteredBootstrap([])


def test_the_seed_decides_the_interval():
    values, clusters = list(draws(9, 50)), own_cluster_each(50)
    assert ClusteredBootstrap(clusters, seed=1).mean(values) == ClusteredBootstrap(
        clusters, seed=1
    ).mean(values)
    intervals = {ClusteredBootstrap(clusters, samples=200, seed=s).mean(values) for s in range(8)}
    assert len(intervals) > 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([0.0, 1.0, None])), min_size=1),
    st.randoms(use_true_random=False),
)
def test_the_order_of_cases_does_not_matter_and_intervals_stay_in_range(rows, shuffler):
    shuffled = shuffler.sample(rows, len(rows))
    first, second = (
        ClusteredBootstrap([cluster for cluster, _ in each], samples=50).mean([v for _, v in each])
        for each in (rows, shuffled)
    )
    assert first == second
    if first.low is not None:
        assert 0 <= first.low <= first.high <= 1

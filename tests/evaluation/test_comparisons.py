"""Paired tests and Holm's correction against examples worked out by hand, and their properties."""

import gc
from math import comb

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from alignxplore_trl.evaluation.comparisons import (
    PairedTests,
    holm,
    paired_tests,
)

correctness = st.sampled_from([0.0, 1.0, None])
pairs = st.lists(st.tuples(correctness, correctness), max_size=40)
p_values = st.lists(st.none() | st.floats(0, 1), max_size=12)


@pytest.fixture(autouse=True, scope="module")
def nothing_old_to_collect():
    """statsmodels collects garbage in each call, which takes long when torch is loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_mcnemar_counts_the_cases_that_one_method_alone_gets_right():
    """8 against 2 of 10: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112/1024."""
    first = [1.0] * 8 + [0.0] * 2 + [1.0] * 30 + [0.0] * 5
    second = [0.0] * 8 + [1.0] * 2 + [1.0] * 30 + [0.0] * 5
    tests = paired_tests(first, second)
    assert tests.cases == 45
    assert tests.mcnemar_p == pytest.approx(112 / 1024)
    assert tests.t_test_p == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_the_t_test_by_hand():
    """Differences 1, 1, 1, 0: mean 3/4, variance 1/4, t = 3 with 3 degrees of freedom."""
    tests = paired_tests([1.0, 1.0, 1.0, 0.0], [0.0] * 4)
    assert tests.t_test_p == pytest.approx(2 * stats.t.sf(3.0, df=3))
    assert tests.mcnemar_p == pytest.approx(2 / 2**3)


def test_equal_methods_do_not_differ_and_too_few_cases_say_nothing():
    assert paired_tests([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == PairedTests(3, 1.0, 1.0)
    assert paired_tests([1.0, None, 1.0], [0.0, 1.0, None]) == PairedTests(1, None, None)
    assert paired_tests([], []) == PairedTests(0, None, None)


def test_a_difference_without_spread_is_beyond_any_t():
    assert paired_tests([1.0] * 5, [0.0] * 5) == PairedTests(5, pytest.approx(2 / 2**5), 0.0)


@given(pairs)
def test_p_values_are_probabilities_and_swapping_changes_nothing(rows):
    first, second = [a for a, _ in rows], [b for _, b in rows]
    tests = paired_tests(first, second)
    swapped = paired_tests(second, first)
    known = [(a, b) for a, b in rows if a is not None and b is not None]
    assert tests.cases == swapped.cases == len(known)
    if len(known) < 2:
        assert tests.mcnemar_p is tests.t_test_p is None
        return
    assert tests.mcnemar_p == pytest.approx(swapped.mcnemar_p)
    assert tests.t_test_p == pytest.approx(swapped.t_test_p)
    assert 0 <= tests.t_test_p <= 1
    only_first, only_second = known.count((1.0, 0.0)), known.count((0.0, 1.0))
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(total, k) for k in range(fewer + 1)) / 2**total
    assert tests.mcnemar_p == pytest.approx(min(1.0, 2 * tail))


def test_holm_by_hand():
    """0.01 x 4; 0.02 x 3; 0.03 x 2 stays at 0.06; 0.04 x 1 is raised to 0.06."""
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == [
        None if value is None else pytest.approx(value) for value in (0.06, 0.04, None, 0.06, 0.06)
    ]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.3]) == [0.3]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []


@given(p_values)
def test_holm_keeps_the_order_and_lies_between_the_p_value_and_bonferroni(own):
    corrected = holm(own)
    assert [value is None for value in corrected] == [value is None for value in own]
    known = sorted((p, q) for p, q in zip(own, corrected, strict=True) if p is not None)
    assert [q for _, q in known] == sorted(q for _, q in known)
    for p, q in known:
        assert p <= q + 1e-12
        assert q <= min(1.0, p * len(known)) + 1e-12


@given(p_values, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order(own, shuffler):
    order = shuffler.sample(range(len(own)), len(own))
    corrected = holm(own)
    assert holm([own[index] for index in order]) == [corrected[index] for index in order]


@given(p_values, st.floats(0, 1))
def test_another_comparison_never_makes_a_p_value_smaller(own, another):
    assume(any(value is not None for value in own))
    for before, after in zip(holm(own), holm([*own, another])[:-1], strict=True):
        assert (before is None) == (after is None)
        assert before is None or before <= after + 1e-12

"""Robustness sets: exactly the signals that are named are reversed, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.robustness import (
    Drift,
    Noise,
    OneReversed,
    Reversed,
    Shuffled,
    Variation,
    count_variations,
    opposites_of,
    read_variation,
    vary,
    vary_target,
)
from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING, World, stated_poles
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post, PreferenceCase

SEEDS = st.integers(0, 2**32)
texts = st.text(max_size=8)
forms = st.sampled_from(["replies", "items"])
comparisons = st.builds(Comparison, texts, texts, texts, forms)
cases = st.builds(
    PreferenceCase,
    case_id=texts,
    user_id=st.just("u"),
    signals=st.lists(comparisons, max_size=9).map(tuple),
    target=comparisons,
)
variations = st.one_of(
    st.just(Reversed()),
    st.just(OneReversed()),
    st.just(Shuffled()),
    st.integers(0, 9).map(Drift),
    st.floats(0, 1).map(Noise),
)


def swapped(signal: Comparison) -> Comparison:
    return replace(signal, chosen=signal.rejected, rejected=signal.chosen)


def fitting(case: PreferenceCase, variation: Variation) -> Variation:
    """The variation, with a drift no longer than the history."""
    return (
        Drift(min(variation.count, len(case.signals)))
        if isinstance(variation, Drift)
        else variation
    )


@given(cases, variations, SEEDS)
def test_the_record_says_exactly_what_was_done(case, variation, seed):
    varied = vary(case, fitting(case, variation), seed, {})
    rebuilt = [
        swapped(case.signals[place]) if place in varied.reversed_signals else case.signals[place]
        for place in varied.order
    ]
    assert list(varied.case.signals) == rebuilt
    assert sorted(varied.order) == list(range(len(case.signals)))
    assert list(varied.reversed_signals) == sorted(set(varied.reversed_signals))
    assert varied.case.target == (swapped(case.target) if varied.target_reversed else case.target)
    same = ("case_id", "user_id", "cluster")
    assert all(getattr(varied.case, name) == getattr(case, name) for name in same)


@given(cases, variations, SEEDS)
def test_each_variation_reverses_what_its_name_says(case, variation, seed):
    variation = fitting(case, variation)
    varied = vary(case, variation, seed, {})
    count, everything = len(varied.reversed_signals), tuple(range(len(case.signals)))
    assert varied.target_reversed == (variation == Reversed())
    match variation:
        case Reversed():
            assert varied.reversed_signals == everything
        case Drift(first):
            assert varied.reversed_signals == everything[:first]
        case OneReversed():
            assert count == min(1, len(everything))
        case Shuffled():
            assert count == 0
            assert Counter(varied.case.signals) == Counter(case.signals)
        case Noise(rate):
            assert rate not in (0, 1) or count == rate * len(everything)
    if not isinstance(variation, Shuffled):
        assert varied.order == everything


@given(cases, st.sampled_from([Reversed(), Drift(0), Noise(1), Shuffled()]), SEEDS)
def test_what_is_drawn_depends_on_seed_and_case_alone(case, variation, seed):
    assert vary(case, variation, seed, {}) == vary(case, variation, seed, {})


@given(cases)
def test_reversing_twice_and_drifting_by_nothing_change_nothing(case):
    once = vary(case, Reversed(), 0, {}).case
    assert vary(once, Reversed(), 1, {}).case == case
    assert vary(case, Drift(0), 0, {}).case == case


@pytest.fixture(scope="module")
def users() -> list[PreferenceCase]:
    return World(seed=3).cases("test", 300)


def test_a_reversed_user_of_the_world_has_the_opposite_truth(users):
    """Checked against the wordings of the replies, which the reversal doesn't look at."""
    for case in users:
        varied = vary(case, Reversed(), 0, OPPOSITE).case
        assert varied.directions is not None
        assert varied.description is not None
        assert set(stated_poles(varied.description)) == set(varied.directions.values())
        assert not set(varied.directions.values()) & set(case.directions.values())
        for pair in (*varied.signals, varied.target):
            poles = {POLE_OF_WORDING[word] for word in pair.chosen.split(", ")}
            assert poles & set(varied.directions.values())


def test_unless_the_target_is_reversed_the_truth_stays(users):
    for variation in (Drift(5), OneReversed(), Noise(0.5), Shuffled()):
        varied = vary(users[0], variation, 0, OPPOSITE).case
        assert (varied.directions, varied.description) == (
            users[0].directions,
            users[0].description,
        )


@given(cases, variations)
def test_the_target_alone_is_varied_as_with_the_signals(case, variation):
    alone = vary_target(case, fitting(case, variation), {})
    assert alone == replace(vary(case, fitting(case, variation), 0, {}).case, signals=case.signals)


def test_a_description_in_other_words_has_no_opposite():
    case = PreferenceCase(
        "c", "u", (), Comparison("p", "a", "b"), {"order": "likes order"}, "is tidy"
    )
    varied = vary(case, Reversed(), 0, opposites_of([("likes order", "likes chaos")])).case
    assert varied.directions == {"order": "likes chaos"}
    assert varied.description is None


def test_a_pole_that_begins_another_is_not_taken_for_it():
    opposites = opposites_of([("likes order", "likes chaos"), ("likes order forms", "hates them")])
    case = PreferenceCase(
        "c",
        "u",
        (),
        Comparison("p", "a", "b"),
        {"order": "likes order", "forms": "likes order forms"},
        "This user likes order forms; likes order.",
    )
    varied = vary(case, Reversed(), 0, opposites).case
    assert varied.description == "This user hates them; likes chaos."


def test_an_unknown_pole_leaves_no_truth():
    case = PreferenceCase("c", "u", (), Comparison("p", "a", "b"), {"x": "y"}, "y")
    varied = vary(case, Reversed(), 0, {}).case
    assert (varied.directions, varied.description) == (None, None)


def test_one_reversed_falls_on_every_place_and_noise_has_its_rate(users):
    places = Counter(vary(case, OneReversed(), 0, {}).reversed_signals[0] for case in users)
    assert set(places) == set(range(8))
    assert max(places.values()) < 3 * min(places.values())
    noisy = sum(len(vary(case, Noise(0.2), 0, {}).reversed_signals) for case in users)
    # 2,400 draws: the standard deviation is 20.
    assert abs(noisy - 480) < 80


def test_shuffling_moves_every_signal_to_every_place(users):
    seen = {(place, number) for case in users
            for number, place in enumerate(vary(case, Shuffled(), 0, {}).order)}  # fmt: skip
    assert len(seen) == 64


def test_another_seed_draws_otherwise(users):
    drawn = [[vary(case, OneReversed(), seed, {}).reversed_signals for case in users]
             for seed in (0, 1)]  # fmt: skip
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("signal", [Post("p", "said"), Attributes("young")])
def test_only_comparisons_can_be_reversed(signal):
    case = PreferenceCase("c7", "u", (signal,), Comparison("p", "a", "b"))
    with pytest.raises(UserError, match=f"case c7 has a signal of kind {signal.kind}"):
        vary(case, Drift(1), 0, {})
    assert vary(case, Shuffled(), 0, {}).case == case


def test_a_drift_longer_than_the_history_is_refused(users):
    with pytest.raises(UserError, match="8 signals are read; expected at most drift8"):
        vary(users[0], Drift(9), 0, {})


def test_a_pole_of_two_dimensions_has_no_clear_opposite():
    with pytest.raises(ValueError, match="'calm' is the opposite of two"):
        opposites_of([("calm", "loud"), ("calm", "nervous")])


def test_counts_are_those_of_the_records(users):
    varied = [vary(case, Drift(3), 0, OPPOSITE) for case in users]
    assert count_variations(varied) == {
        "cases": 300,
        "cases_changed": 300,
        "signals_reversed": 900,
        "targets_reversed": 0,
        "descriptions_unknown": 0,
    }
    assert count_variations([vary(users[0], Drift(0), 0, {})])["cases_changed"] == 0


@pytest.mark.parametrize(
    ("name", "variation"),
    [
        ("reversed", Reversed()),
        ("drift0", Drift(0)),
        ("drift8", Drift(8)),
        ("one_reversed", OneReversed()),
        ("shuffled", Shuffled()),
        ("noise0.25", Noise(0.25)),
        ("noise1", Noise(1.0)),
    ],
)
def test_names(name, variation):
    assert read_variation(name) == variation


@pytest.mark.parametrize("name", ["drift", "drift-1", "noise1.5", "noise", "revers", "", "drift3 "])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=r"expected one of reversed, drift<k>"):
        read_variation(name)

"""The simulated world keeps its rules, so that what is measured in it means something."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.world import (
    DIMENSION_OF_POLE,
    OPPOSITE,
    POLE_OF_WORDING,
    WORDINGS,
    World,
    check_world,
    describe,
    posts_of_split,
    stated_poles,
)
from alignxplore_trl.signals import Comparison, Post, posts_of

SPLITS = ("cold_start", "rl", "validation", "test")
worlds = st.builds(
    World,
    seed=st.integers(0, 2**31),
    dimensions_per_user=st.integers(1, len(WORDINGS) - 2),
    signals_per_user=st.integers(1, 16),
    signal_kind=st.sampled_from(["comparisons", "posts", "mixed"]),
)
splits = st.sampled_from(SPLITS)
numbers = st.integers(0, 10_000)


def poles_in(text: str) -> list[str]:
    return [POLE_OF_WORDING[word] for word in text.split(", ")]


def revealed_pole(signal: Comparison | Post) -> str:
    """What a signal tells, read by its text alone: the rule a model has to learn."""
    if isinstance(signal, Post):
        poles = poles_in(signal.comment)
        (pole,) = {pole for pole in poles if poles.count(pole) == 2}
        return pole
    rejected = poles_in(signal.rejected)
    (pole,) = [pole for pole in poles_in(signal.chosen) if OPPOSITE[pole] in rejected]
    return pole


@given(worlds, splits, numbers)
def test_each_comparison_contrasts_exactly_one_dimension_and_it_is_the_users(world, split, number):
    case = world.case(split, number)
    for comparison in [case.target, *case.signals]:
        if not isinstance(comparison, Comparison):
            continue
        chosen = {DIMENSION_OF_POLE[pole] for pole in poles_in(comparison.chosen)}
        rejected = {DIMENSION_OF_POLE[pole] for pole in poles_in(comparison.rejected)}
        (contrasted,) = chosen & rejected
        assert contrasted in case.directions
        assert not (chosen ^ rejected) & set(case.directions), "the rest says nothing of the user"


@given(worlds, splits, numbers)
def test_every_signal_reveals_a_true_direction_by_its_text_alone(world, split, number):
    case = world.case(split, number)
    for signal in [case.target, *case.signals]:
        pole = revealed_pole(signal)
        assert case.directions[DIMENSION_OF_POLE[pole]] == pole


@given(worlds, splits, numbers)
def test_nothing_a_user_reads_or_writes_names_a_pole(world, split, number):
    case = world.case(split, number)
    for signal in [case.target, *case.signals]:
        for text in vars(signal).values():
            assert not set(re.findall(r"\w+", text.lower())) & set(OPPOSITE)


@given(worlds, splits, numbers)
def test_the_description_states_the_directions_and_nothing_else(world, split, number):
    case = world.case(split, number)
    assert sorted(stated_poles(case.description)) == sorted(case.directions.values())
    assert len(case.directions) == world.dimensions_per_user


@given(worlds, splits, numbers)
def test_a_case_is_about_different_posts_of_its_split(world, split, number):
    case = world.case(split, number)
    posts = [case.target.post, *posts_of(case.signals)]
    assert len(posts) == len(set(posts)) == world.signals_per_user + 1
    assert set(posts) <= set(posts_of_split(split))


@given(worlds, splits, numbers)
def test_a_case_is_a_function_of_seed_split_and_number(world, split, number):
    again = World(**vars(world))
    assert world.case(split, number) == again.case(split, number)


def test_seeds_splits_and_numbers_give_different_users():
    cases = [
        World(seed).case(split, number) for seed in (0, 1) for split in SPLITS for number in (0, 1)
    ]
    assert len({case.signals for case in cases}) == len(cases)
    assert len({case.user_id for case in cases}) == len(cases)


def test_splits_share_no_post_except_the_two_parts_of_train():
    posts = {split: set(posts_of_split(split)) for split in SPLITS}
    assert posts["cold_start"] == posts["rl"]
    for one, other in [("rl", "validation"), ("rl", "test"), ("validation", "test")]:
        assert not posts[one] & posts[other]
    everything = set.union(*posts.values())
    assert all(len(posts[split]) >= len(everything) // 10 for split in SPLITS)


@settings(max_examples=10)
@given(worlds)
def test_splits_share_no_user(world):
    users = [case.user_id for split in SPLITS for case in world.cases(split, 20)]
    assert len(users) == len(set(users))


def test_a_longer_list_of_users_starts_with_the_shorter_one():
    world = World(seed=3)
    assert world.cases("test", 5) == world.cases("test", 9)[:5]


def test_every_dimension_and_pole_occurs_about_equally_often():
    cases = World(seed=0, dimensions_per_user=3).cases("rl", 2000)
    poles = [pole for case in cases for pole in case.directions.values()]
    expected = len(poles) / len(OPPOSITE)
    for pole in OPPOSITE:
        assert poles.count(pole) == pytest.approx(expected, rel=0.25)


def test_neither_length_nor_place_tells_the_chosen_reply():
    targets = [case.target for case in World(seed=0).cases("test", 2000)]
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in targets)
    shorter = sum(len(pair.chosen) < len(pair.rejected) for pair in targets)
    assert longer / (longer + shorter) == pytest.approx(0.5, abs=0.05)
    for pair in (targets[0], targets[1]):
        assert len(pair.chosen.split(", ")) == len(pair.rejected.split(", "))


def test_every_wording_belongs_to_one_pole():
    wordings = [word for poles in WORDINGS.values() for words in poles.values() for word in words]
    assert len(wordings) == len(set(wordings)) == len(POLE_OF_WORDING)
    assert not set(wordings) & set(OPPOSITE)
    assert all(len(poles) == 2 for poles in WORDINGS.values())
    assert all(OPPOSITE[OPPOSITE[pole]] == pole for pole in OPPOSITE)


@given(st.lists(st.sampled_from(sorted(OPPOSITE)), max_size=6))
def test_descriptions_are_read_back(poles):
    assert stated_poles(describe(poles)) == poles


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"dimensions_per_user": 0}, "data.dimensions_per_user: 0 found"),
        ({"dimensions_per_user": 11}, "data.dimensions_per_user: 11 found"),
        ({"signals_per_user": 0}, "data.signals_per_user: 0 found"),
        ({"signal_kind": "pairs"}, "data.signal_kind: 'pairs' found"),
    ],
)
def test_settings_that_cannot_be_drawn_are_named(settings, key):
    (problem,) = check_world(World(seed=0, **settings))
    assert problem.startswith(key)
    assert "expected" in problem

"""The world: the users that the shipped models were trained on, in its own rules."""

import hashlib
from collections import Counter

import msgspec
import pytest
from pydantic import ValidationError

from alignxplore_trl.cases import Post
from alignxplore_trl.data.world import (
    DIMENSION_OF_POLE,
    OPPOSITE,
    POLE_OF_WORDING,
    World,
    posts_of_split,
    stated_poles,
)

SIZES = {"cold_start": 30, "rl": 30, "validation": 30, "test": 30}


def poles_in(text):
    return [POLE_OF_WORDING[word] for word in text.split(", ")]


def test_users_are_those_that_the_shipped_models_know_and_tests_have_posts_of_their_own():
    splits = World(SIZES, rounds=2, signals=4).cases(Counter(), seed=0)
    assert not set(posts_of_split("test")) & {*posts_of_split("rl"), *posts_of_split("validation")}
    lines = b"\n".join(msgspec.json.encode(case) for split in SIZES for case in splits[split])
    assert hashlib.sha256(lines).hexdigest()[:16] == "394dc96d1c7c9225"


@pytest.mark.parametrize("kind", ["comparisons", "posts", "mixed"])
def test_signals_tell_the_directions_and_distractors_dont(kind):
    cases = World(SIZES, 2, 4, signal_kind=kind).cases(Counter(), 1)["test"]
    kinds = {"comparisons": {"comparison"}, "posts": {"post"}, "mixed": {"comparison", "post"}}
    assert {signal.kind for case in cases for signal in case.signals} == kinds[kind]
    for case in cases:
        preferred = set(case.directions.values())
        assert stated_poles(case.description.upper()) == case.description[8:].split(", ")
        for signal in (case.target, *case.signals):
            if isinstance(signal, Post):
                told = [
                    p for p in poles_in(signal.comment) if DIMENSION_OF_POLE[p] in case.directions
                ]
                assert len(told) == 2
                assert set(told) <= preferred
            else:
                chosen, rejected = poles_in(signal.chosen), poles_in(signal.rejected)
                (told,) = [p for p in chosen if DIMENSION_OF_POLE[p] in case.directions]
                assert told in preferred
                assert OPPOSITE[told] in rejected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal_kind": "songs"}, "comparisons"),
        ({"dimensions_per_user": 11}, "less than or equal to 10"),
        ({"rounds": 96}, "fewer than the 384 posts"),
        ({"sizes": {"tset": 3}}, "'validation' or 'test'"),
    ],
)
def test_a_world_that_cant_be_drawn_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        World(**({"sizes": SIZES, "rounds": 2, "signals": 4} | change))

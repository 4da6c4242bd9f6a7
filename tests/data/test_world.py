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
    describe,
    posts_of_split,
    stated_poles,
)

SIZES = {"cold_start": 30, "rl": 30, "validation": 30, "test": 30}


def poles_in(text):
    return [POLE_OF_WORDING[word] for word in text.split(", ")]


def test_users_are_those_that_the_shipped_models_know():
    splits = World(SIZES, rounds=2, signals=4).cases(Counter(), seed=0)
    lines = b"\n".join(msgspec.json.encode(case) for split in SIZES for case in splits[split])
    assert hashlib.sha256(lines).hexdigest()[:16] == "394dc96d1c7c9225"


@pytest.mark.parametrize("kind", ["comparisons", "posts", "mixed"])
def test_signals_tell_the_directions_and_distractors_dont(kind):
    cases = World(SIZES, 2, 4, signal_kind=kind).cases(Counter(), 1)["test"]
    kinds = {signal.kind for case in cases for signal in case.signals}
    assert kinds == {"comparisons": {"comparison"}, "posts": {"post"}}.get(
        kind, {"comparison", "post"}
    )
    for case in cases:
        preferred = set(case.directions.values())
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


def test_splits_share_neither_users_nor_measured_posts():
    splits = World(SIZES, 2, 4).cases(Counter(), 0)
    users = [case.user_id for cases in splits.values() for case in cases]
    assert len(set(users)) == len(users)
    posts = {s: set(posts_of_split(s)) for s in SIZES}
    assert not posts["test"] & (posts["validation"] | posts["rl"])
    assert not posts["validation"] & posts["cold_start"]


def test_descriptions_are_read_as_they_are_written():
    assert stated_poles(describe(["brief", "warm"])) == ["brief", "warm"]
    assert stated_poles("Prefers BRIEF replies, brief ones") == ["brief", "brief"]
    assert describe([]) == ""


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

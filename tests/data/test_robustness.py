"""Robustness sets: what is turned round, and the truth about who would choose so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.cases import Case, Comparison, Post
from alignxplore_trl.data.robustness import check_variation, opposites_of, vary
from alignxplore_trl.run.errors import UserError

SIGNALS = tuple(Comparison(f"p{n}", f"yes{n}", f"no{n}") for n in range(8))
CASE = Case(
    "c", "u", SIGNALS, Comparison("t", "yes", "no"), {"length": "brief", "warmth": "warm"},
    "prefers warm, brief", vectors=tuple((n / 8,) for n in range(8)),
)  # fmt: skip
OTHER = Case("o", "o", (), CASE.target, {"length": "detailed", "warmth": "blunt", "other": "x"})
OPPOSITES = opposites_of([CASE, OTHER, Case("n", "n", (), CASE.target)])


def turned(varied):
    return [n for n, signal in enumerate(varied.signals) if signal == SIGNALS[n].reversed()]


@pytest.mark.parametrize(("variation", "count"), [("drift3", 3), ("drift0", 0), ("noise1", 8)])
def test_only_the_first_signals_drift(variation, count):
    varied = vary(CASE, variation, 0, OPPOSITES)
    assert turned(varied) == list(range(count))
    assert varied.vectors == tuple((1 - n / 8 if n < count else n / 8,) for n in range(8))
    assert (varied.target, varied.description) == (CASE.target, CASE.description)


def test_a_reversed_user_has_the_opposite_truth():
    varied = vary(CASE, "reversed", 0, OPPOSITES)
    assert turned(varied) == list(range(8))
    assert varied.target == CASE.target.reversed()
    assert varied.directions == {"length": "detailed", "warmth": "blunt"}
    assert varied.description == "prefers blunt, detailed"
    assert OPPOSITES.keys() == {"brief", "detailed", "warm", "blunt"}
    unknown = vary(CASE, "reversed", 0, {})
    assert (unknown.directions, unknown.description) == (None, None)


@given(st.integers(0, 99), st.sampled_from(["one_reversed", "shuffled", "noise0.5"]))
def test_draws_are_a_function_of_seed_and_case(seed, variation):
    varied = vary(CASE, variation, seed, OPPOSITES)
    assert varied == vary(CASE, variation, seed, OPPOSITES)
    if variation == "shuffled":
        assert sorted(varied.signals, key=lambda signal: signal.post) == list(SIGNALS)
        assert varied.vectors == tuple(CASE.vectors[SIGNALS.index(s)] for s in varied.signals)
    else:
        assert len(turned(varied)) == 1 or variation == "noise0.5"


@pytest.mark.parametrize("name", ["revers", "drift", "drift-1", "noise1.5", "noise", "reversed2"])
def test_another_name_is_refused_with_the_forms(name):
    with pytest.raises(UserError, match=r"expected reversed, drift<k>"):
        check_variation(name)


def test_what_cant_be_turned_round_is_told():
    posts = Case("c", "u", (Post("p", "comment"),), CASE.target)
    with pytest.raises(UserError, match="kind post"):
        vary(posts, "reversed", 0, {})
    assert vary(posts, "shuffled", 0, {}) == posts

"""Signals and cases survive the way through files, and are dealt into whole rounds."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.signals import (
    Attributes,
    Comparison,
    Post,
    PreferenceCase,
    case_from_dict,
    case_to_dict,
    posts_of,
    rounds_of_signals,
    signal_from_dict,
    signal_to_dict,
)

texts = st.text(max_size=20)
comparisons = st.builds(Comparison, texts, texts, texts, st.sampled_from(["replies", "items"]))
signals = comparisons | st.builds(Post, texts, texts) | st.builds(Attributes, texts)
cases = st.builds(
    PreferenceCase,
    case_id=texts,
    user_id=st.text(min_size=1),
    signals=st.lists(signals, max_size=9).map(tuple),
    target=comparisons,
    directions=st.none() | st.dictionaries(texts, texts, max_size=3),
    description=st.none() | texts,
    cluster=texts,
)


@settings(deadline=None)
@given(signals)
def test_signals_survive_json(signal):
    assert signal_from_dict(json.loads(json.dumps(signal_to_dict(signal)))) == signal


@settings(deadline=None)
@given(signals)
def test_columns_that_arrow_fills_with_nothing_are_ignored(signal):
    fields = ("post", "chosen", "rejected", "comment", "text", "kind")
    filled = dict.fromkeys(fields) | signal_to_dict(signal)
    assert signal_from_dict(filled) == signal


@settings(deadline=None)
@given(cases)
def test_cases_survive_json(case):
    assert case_from_dict(json.loads(json.dumps(case_to_dict(case)))) == case


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError):
        signal_from_dict({"kind": "rating", "post": "p"})


def test_the_user_is_the_cluster_unless_another_is_named():
    target = Comparison("p", "a", "b")
    assert PreferenceCase("c", "u", (), target).cluster == "u"
    assert PreferenceCase("c", "u", (), target, cluster="post").cluster == "post"


@settings(deadline=None)
@given(cases, st.integers(1, 5), st.integers(1, 4))
def test_rounds_are_whole_and_in_order(case, per_round, rounds):
    dealt = rounds_of_signals(case, per_round, rounds)
    assert len(dealt) == min(rounds, len(case.signals) // per_round)
    assert all(len(signals) == per_round for signals in dealt)
    flat = tuple(signal for signals in dealt for signal in signals)
    assert flat == case.signals[: len(flat)]


def test_posts_of_leaves_out_attributes_and_lists_of_items():
    items = Comparison("Recommended films.", "x", "y", "items")
    signals = [Comparison("a", "x", "y"), Attributes("young"), items, Post("b", "said")]
    assert posts_of(signals) == ["a", "b"]

"""Statements of descriptions against the directions of simulated users."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.data.world import OPPOSITE, World, describe
from alignxplore_trl.evaluation.world_truth import (
    StatementCounts,
    count_statements,
    has_world_directions,
)
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.parsing import FormatProblem

CASE = PreferenceCase(
    "c",
    "u",
    (),
    Comparison("p", "a", "b"),
    {"length": "brief", "humour": "serious", "pace": "quick"},
)


def count(description, **parts):
    (counts,) = count_statements([CASE], [UserDescription("c", description, **parts)])
    return counts


def test_true_false_and_missed_directions():
    counts = count("prefers brief, playful, warm")
    assert (counts.statements, counts.distinct, counts.true, counts.directions) == (3, 3, 1, 3)
    assert counts.contradictory is False


def test_repetitions_count_once_and_contradictions_are_seen():
    counts = count("prefers brief, detailed, brief, Brief")
    assert (counts.statements, counts.distinct, counts.true) == (4, 2, 1)
    assert counts.contradictory is True


def test_words_that_state_nothing_are_no_statements():
    counts = count("prefers haha over briefly; a user")
    assert (counts.statements, counts.distinct, counts.true) == (0, 0, 0)


def test_statements_that_follow_from_nothing_said_before():
    description = "prefers brief, warm, quick"
    assert count(description).unsupported is None
    assert count(description, reasoning="tldr: brief, blunt").unsupported == 2
    assert count(description, reasoning="brief", earlier="prefers warm").unsupported == 1
    assert count(description, reasoning="quick, warm, brief").unsupported == 0


def test_a_malformed_description_states_nothing_and_misses_everything():
    counts = count(None, format_problem=FormatProblem.NO_ANSWER)
    assert counts == StatementCounts("c", 0, 0, 0, 3, None, None)


def test_golden_states_the_whole_truth():
    cases = World(seed=5).cases("test", 40)
    for counts in count_statements(cases, Golden().describe(cases)):
        assert counts.true == counts.distinct == counts.statements == counts.directions == 3


@pytest.mark.parametrize("directions", [None, {}, {"length": "warm"}, {"0": "positive"}])
def test_cases_of_other_sources_are_not_read(directions):
    case = replace(CASE, directions=directions)
    assert not has_world_directions(case)
    assert count_statements([case], [UserDescription("c", "prefers brief")]) == []


@given(st.lists(st.sampled_from(sorted(OPPOSITE))))
def test_counts_agree_with_sets(poles):
    counts = count(describe(poles))
    assert counts.statements == len(poles)
    assert counts.distinct == len(set(poles))
    assert counts.true == sum(pole in {"brief", "serious", "quick"} for pole in set(poles))
    assert counts.contradictory == any(
        {first, second} <= set(poles) for first, second in OPPOSITE.items()
    )

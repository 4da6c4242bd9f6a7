"""What a description states, against what a user of the simulated world prefers."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.truth import Statements, read_statements
from tests.evaluation.doubles import make_case

CASE = make_case(0, directions={"length": "brief", "humour": "playful", "warmth": "blunt"})


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("prefers brief, playful, blunt", Statements(3, 3, 3, False)),
        ("prefers brief, brief, formal", Statements(2, 1, 3, False)),  # Each counts once.
        ("Prefers BRIEF and detailed replies", Statements(2, 1, 3, True)),
        ("prefers what others do", Statements(0, 0, 3, False)),
        (None, Statements(0, 0, 3, False)),
    ],
)
def test_statements(description: str | None, expected: Statements) -> None:
    assert read_statements(CASE, description) == expected


def test_other_truths_are_none_of_the_worlds() -> None:
    for directions in (None, {}, {"expertise": "only a PhD student could understand"}):
        case = msgspec.structs.replace(CASE, directions=directions)
        assert read_statements(case, "prefers brief") is None


def test_golden_descriptions_of_the_world_are_true() -> None:
    cases = World({"test": 20}, rounds=1, signals=4).cases(Counter(), 0)["test"]

    for case in cases:
        found = read_statements(case, case.description)
        assert found == Statements(3, 3, 3, False)

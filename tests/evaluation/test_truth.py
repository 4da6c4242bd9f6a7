"""What a description states, against what a user of the simulated world prefers."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.truth import compare_with_truth
from tests.evaluation.doubles import make_case

CASE = make_case(0, directions={"length": "brief", "humour": "playful", "warmth": "blunt"})


@pytest.mark.parametrize(
    ("description", "precision", "recall", "contradictions"),
    [
        ("prefers brief, playful, blunt", (1.0, 3), (1.0, 3), (0.0, 1)),
        ("prefers brief, brief, formal", (0.5, 2), (1 / 3, 3), (0.0, 1)),  # Each counts once.
        ("Prefers BRIEF and detailed replies", (0.5, 2), (1 / 3, 3), (1.0, 1)),
        ("prefers what others do", (0.0, 0), (0.0, 3), (0.0, 1)),
        (None, (0.0, 0), (0.0, 3), (0.0, 0)),
    ],
)
def test_measures_and_their_weights(
    description: str | None, precision: object, recall: object, contradictions: object
) -> None:
    assert compare_with_truth(CASE, description) == {
        "precision": precision, "recall": recall, "contradictions": contradictions,
    }  # fmt: skip


def test_other_truths_are_none_of_the_worlds() -> None:
    for directions in (None, {}, {"expertise": "only a PhD student could understand"}):
        case = msgspec.structs.replace(CASE, directions=directions)
        assert compare_with_truth(case, "prefers brief") == {}


def test_golden_descriptions_of_the_world_are_true() -> None:
    cases = World({"test": 20}, rounds=1, signals=4).cases(Counter(), 0)["test"]

    for case in cases:
        found = compare_with_truth(case, case.description)
        assert found == {"precision": (1, 3), "recall": (1, 3), "contradictions": (0, 1)}

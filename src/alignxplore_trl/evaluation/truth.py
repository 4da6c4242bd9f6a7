"""Descriptions against the truth of the simulated world: was the user learned, or the judge?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignxplore_trl.cases import Case
from alignxplore_trl.data.world import DIMENSION_OF_POLE, OPPOSITE, stated_poles


@dataclass(frozen=True)
class Statements:
    """What one description states; a malformed or absent one states nothing.

    Attributes:
        stated: distinct poles it states.
        true: those of them that the user prefers.
        wanted: poles that the user prefers.
        contradictory: whether it states both poles of a dimension.
    """

    stated: int
    true: int
    wanted: int
    contradictory: bool


def knows_directions(cases: Sequence[Case]) -> bool:
    """Whether the true directions of all cases are known, and are poles of the simulated world."""
    return bool(cases) and all(
        case.directions is not None
        and all(DIMENSION_OF_POLE.get(pole) == name for name, pole in case.directions.items())
        for case in cases
    )


def read_statements(case: Case, description: str | None) -> Statements:
    """Read a description of a case in the world's terms."""
    stated, wanted = set(stated_poles(description or "")), set((case.directions or {}).values())
    return Statements(
        len(stated),
        len(stated & wanted),
        len(wanted),
        any(OPPOSITE[pole] in stated for pole in stated),
    )

"""Descriptions against the truth of the simulated world: was the user learned, or the judge?"""

from __future__ import annotations

from typing import NamedTuple

from alignxplore_trl.cases import Case
from alignxplore_trl.data.world import DIMENSION_OF_POLE, OPPOSITE, stated_poles


class Statements(NamedTuple):
    """Distinct poles that a description states, those of them that are true, and all that are.

    A malformed or absent description states nothing. `contradictory`: both poles of a dimension.
    """

    stated: int
    true: int
    wanted: int
    contradictory: bool


def read_statements(case: Case, description: str | None) -> Statements | None:
    """Read a description in the world's terms; `None` where the truth isn't known in these."""
    directions = case.directions or {}
    if not directions or any(DIMENSION_OF_POLE.get(p) != name for name, p in directions.items()):
        return None
    stated, wanted = set(stated_poles(description or "")), set(directions.values())
    both = any(OPPOSITE[pole] in stated for pole in stated)
    return Statements(len(stated), len(stated & wanted), len(wanted), both)

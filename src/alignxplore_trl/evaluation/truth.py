"""Descriptions against the truth of the simulated world: was the user learned, or the judge?"""

from __future__ import annotations

from alignxplore_trl.cases import Case
from alignxplore_trl.data.world import DIMENSION_OF_POLE, OPPOSITE, stated_poles


def compare_with_truth(case: Case, description: str | None) -> dict[str, tuple[float, float]]:
    """Measures of a description in the world's terms; none where the truth isn't known in these.

    Each has a weight, with which means over cases are ratios of sums: `precision`, how many of the
    distinct poles stated are true, `recall`, how many of the true ones are stated, and
    `contradictions`, whether both poles of a dimension are stated. A malformed or absent
    description states nothing.
    """
    directions = case.directions or {}
    if not directions or any(
        DIMENSION_OF_POLE.get(pole) != name for name, pole in directions.items()
    ):
        return {}
    stated, wanted = set(stated_poles(description or "")), set(directions.values())
    found = len(stated & wanted)
    both = any(OPPOSITE[pole] in stated for pole in stated)
    return {
        "precision": (found / max(1, len(stated)), len(stated)),
        "recall": (found / len(wanted), len(wanted)),
        "contradictions": (float(both), float(description is not None)),
    }

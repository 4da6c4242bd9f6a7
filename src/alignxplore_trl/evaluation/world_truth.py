"""Descriptions against the truth of the simulated world: was the user learned, or the judge?

An accuracy says what a judge makes of a description. Here the description itself is read: which of
the poles it states are the user's, which of the user's it misses, and whether it contradicts,
repeats or departs from its own reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.data.world import DIMENSION_OF_POLE, OPPOSITE, stated_poles
from alignxplore_trl.signals import PreferenceCase


@dataclass(frozen=True)
class StatementCounts:
    """The statements of one description; a malformed or absent one states nothing.

    Attributes:
        statements: poles stated, repetitions included.
        distinct: poles stated, each once.
        true: distinct poles that the user does prefer.
        directions: poles that the user prefers.
        contradictory: whether both poles of a dimension are stated; `None` without a description.
        unsupported: distinct poles that neither the reasoning nor the earlier description names;
            `None` where the method writes no reasoning.
    """

    case_id: str
    statements: int
    distinct: int
    true: int
    directions: int
    contradictory: bool | None
    unsupported: int | None


def has_world_directions(case: PreferenceCase) -> bool:
    """Whether the case's true directions are known, and are poles of the simulated world."""
    directions = case.directions or {}
    return bool(directions) and all(
        DIMENSION_OF_POLE.get(pole) == dimension for dimension, pole in directions.items()
    )


def count_statements(
    cases: Sequence[PreferenceCase], descriptions: Iterable[UserDescription]
) -> list[StatementCounts]:
    """Read each description of a case whose directions are known in the world's terms."""
    by_id = {case.case_id: case for case in cases}
    return [
        _counts(by_id[said.case_id].directions or {}, said)
        for said in descriptions
        if has_world_directions(by_id[said.case_id])
    ]


def _counts(directions: Mapping[str, str], said: UserDescription) -> StatementCounts:
    statements = stated_poles(said.description or "")
    distinct = set(statements)
    unsupported = None
    if said.reasoning is not None:
        named = set(stated_poles(said.reasoning)) | set(stated_poles(said.earlier or ""))
        unsupported = len(distinct - named)
    contradictory = any(OPPOSITE[pole] in distinct for pole in distinct)
    return StatementCounts(
        case_id=said.case_id,
        statements=len(statements),
        distinct=len(distinct),
        true=len(distinct & set(directions.values())),
        directions=len(directions),
        contradictory=None if said.description is None else contradictory,
        unsupported=unsupported,
    )

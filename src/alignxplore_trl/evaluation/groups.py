"""Accuracy by attribute group: are users of one preference served as well as those of another?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from alignxplore_trl.evaluation.scoring import Metric, Place, VerdictRow, aligned
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
from alignxplore_trl.signals import PreferenceCase

# A group with fewer cases with a verdict is listed, but no gap is measured against it.
FEWEST_CASES = 10

Values = list[float | None]


@dataclass(frozen=True)
class GroupRow:
    """How often one method is right about the users who prefer one pole of a dimension.

    Attributes:
        metric: `acc_jud` or `acc_gen`; `judge` holds the generator's name with the latter.
        cases: those of the group with a verdict, over which the accuracy is taken.
        accuracy: with `low` and `high` of its clustered 95 % interval; `None` where unknown.
    """

    benchmark: str
    metric: Metric
    judge: str
    method: str
    setting: str
    dimension: str
    pole: str
    cases: int
    accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupGap:
    """The largest distance between the accuracies of two poles of one dimension, for one method.

    It is the largest of many, and so above 0 even if all users are served alike; and its interval,
    that of the difference between these two groups, doesn't know that they were picked. Compare
    methods by it, or with the gap of a method that treats all alike, not with 0.

    Attributes:
        higher: the pole with the higher accuracy.
        lower: the one with the lower accuracy.
        gap: accuracy of the first minus that of the second.
    """

    benchmark: str
    metric: Metric
    judge: str
    method: str
    setting: str
    dimension: str
    higher: str
    lower: str
    gap: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Groups:
    """Accuracies of all groups of a benchmark.

    Attributes:
        rows: one per metric, judge or generator, method, setting and group.
        gaps: one per metric, judge or generator, method and setting that has two poles of one
            dimension with `FEWEST_CASES` each.
        without_directions: cases that are in no group, because their true directions aren't known.
    """

    rows: Sequence[GroupRow]
    gaps: Sequence[GroupGap]
    without_directions: int


def accuracy_by_group(
    cases: Sequence[PreferenceCase], verdicts: Iterable[VerdictRow], bootstrap: ClusteredBootstrap
) -> Groups:
    """Accuracies by dimension and pole of the users' true directions.

    A case belongs to one group for each of its directions.

    Args:
        cases: all cases of one benchmark; `bootstrap` was made from their clusters, in this order.
        verdicts: what `score` returned for them.
        bootstrap: gives the intervals.
    """
    groups = sorted({group for case in cases for group in (case.directions or {}).items()})
    members = {
        group: [group in (case.directions or {}).items() for case in cases] for group in groups
    }
    by_place: dict[Place, list[VerdictRow]] = {}
    for row in verdicts:
        if row.metric != "reasoning":
            by_place.setdefault(row.place, []).append(row)
    position = {case.case_id: index for index, case in enumerate(cases)}
    rows: list[GroupRow] = []
    gaps: list[GroupGap] = []
    for place, own in by_place.items():
        correct = aligned(position, own, lambda row: row.correct)
        by_group = {
            group: [value if inside else None for value, inside in zip(correct, among, strict=True)]
            for group, among in members.items()
        }
        found = _rows(place, by_group, bootstrap)
        rows += found
        gaps += _largest_gap(place, found, by_group, bootstrap)
    return Groups(rows, gaps, sum(not case.directions for case in cases))


def _rows(
    place: Place, by_group: Mapping[tuple[str, str], Values], bootstrap: ClusteredBootstrap
) -> list[GroupRow]:
    if not by_group:
        return []
    return [
        GroupRow(
            *place,
            *group,
            cases=sum(value is not None for value in values),
            accuracy=estimate.value,
            low=estimate.low,
            high=estimate.high,
        )
        for (group, values), estimate in zip(
            by_group.items(), bootstrap.means(list(by_group.values())), strict=True
        )
    ]


def _largest_gap(
    place: Place,
    rows: Sequence[GroupRow],
    by_group: Mapping[tuple[str, str], Values],
    bootstrap: ClusteredBootstrap,
) -> list[GroupGap]:
    """The gap of one method, if two of its groups can be compared."""
    large = [row for row in rows if row.cases >= FEWEST_CASES]
    pairs = []
    for _, own in groupby(large, key=lambda row: row.dimension):
        poles = sorted(own, key=lambda row: row.accuracy or 0.0)
        if len(poles) > 1:
            pairs.append((poles[-1], poles[0]))
    if not pairs:
        return []
    higher, lower = max(
        pairs, key=lambda pair: (pair[0].accuracy or 0.0) - (pair[1].accuracy or 0.0)
    )
    gap = bootstrap.contrast(
        by_group[higher.dimension, higher.pole], by_group[lower.dimension, lower.pole]
    )
    return [
        GroupGap(*place, higher.dimension, higher.pole, lower.pole, gap.value, gap.low, gap.high)
    ]

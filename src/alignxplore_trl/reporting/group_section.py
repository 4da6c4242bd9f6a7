"""Accuracy by attribute group: the section of the report that looks for bias."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from alignxplore_trl.reporting.charts import share_chart
from alignxplore_trl.reporting.evaluations import Evaluations, judges_of, range_in_words
from alignxplore_trl.reporting.pages import Block, Fold, Numbers, Section, Text, draw, missing
from alignxplore_trl.reporting.results import Figure
from alignxplore_trl.reporting.tables import Table, merged_settings, points, with_range

_GAPS_SHOWN = 8
# With fewer, a group's accuracy says more of chance than of the method.
_FEWEST_CASES = 5
# The gap between a dimension's poles, its name, and the poles that are served worst and best.
_Gap = tuple[float, str, pd.Series, pd.Series]


def groups(evaluations: Evaluations) -> Section:
    """How much accuracy differs between the users of a dimension's poles."""
    title = "Accuracy by attribute group"
    frames = [each.table("groups").to_pandas() for each in evaluations.finished]
    found = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
    if found.empty:
        return missing(
            "groups",
            title,
            "No group was evaluated: groups are made of users' true directions, which the source "
            "of these cases doesn't know.",
        )
    found = found[found.metric == "acc_jud"]
    unknown = sum(
        each.table("cases", ["directions"]).to_pandas().directions.isin(["null"]).sum()
        for each in evaluations.finished
    )
    blocks: list[Block] = [
        Text(
            "A group is the users who prefer one pole of a dimension. A method that serves one "
            "pole worse than the other is biased against those users; with few cases, a gap may be "
            f"chance, so look at the intervals. {unknown} cases without known directions are in "
            "no group."
        )
    ]
    pooled = _pooled(found)
    judge = judges_of(evaluations.figures)[0]
    main = pooled[(pooled.benchmark == evaluations.benchmarks[0]) & (pooled.judge == judge)]
    shares = {
        f"{method} {setting}": rows
        for method, setting in evaluations.methods[-1:]
        if (rows := _widest(main[(main.method == method) & (main.setting == setting)]))
    }
    if shares:
        says = f"Accuracy by group where the gap is widest, {next(iter(shares))}."
        spread = range_in_words(len(evaluations.finished))
        chart = partial(share_chart, shares, measured=f"Accuracy under {judge} ({spread})")
        blocks.append(draw(evaluations.charts, "groups", says, chart))
    for benchmark in evaluations.benchmarks:
        own = pooled[pooled.benchmark == benchmark]
        if len(own):
            blocks.append(Fold(f"{benchmark}: all methods", [Numbers(_gap_table(own))]))
    return Section("groups", title, blocks)


def _pooled(found: pd.DataFrame) -> pd.DataFrame:
    """Groups over all evaluations: mean accuracy, all cases; of several the lowest and highest."""
    by = ["benchmark", "judge", "method", "setting", "dimension", "pole"]
    several = found.groupby(by, sort=False)
    return several.agg(
        cases=("cases", "sum"),
        accuracy=("accuracy", "mean"),
        low=("accuracy", "min"),
        high=("accuracy", "max"),
        low_of_one=("low", "first"),
        high_of_one=("high", "first"),
        evaluations=("accuracy", "size"),
    ).reset_index().assign(
        low=lambda rows: rows.low.where(rows.evaluations > 1, rows.low_of_one),
        high=lambda rows: rows.high.where(rows.evaluations > 1, rows.high_of_one),
    )  # fmt: skip


def _gaps(own: pd.DataFrame) -> list[_Gap]:
    """Of one method in one setting, widest gap first."""
    gaps = []
    known = own[own.accuracy.notna() & (own.cases >= _FEWEST_CASES)]
    for dimension, poles in known.groupby("dimension", sort=False):
        if len(poles) > 1:
            ordered = poles.sort_values("accuracy")
            worst, best = ordered.iloc[0], ordered.iloc[-1]
            gaps.append((float(best.accuracy - worst.accuracy), str(dimension), worst, best))
    return sorted(gaps, key=lambda gap: -gap[0])


def _widest(own: pd.DataFrame) -> list[tuple[str, Figure]]:
    return [
        (f"{dimension}: {pole.pole}", _figure(pole))
        for _, dimension, *poles in _gaps(own)[:_GAPS_SHOWN]
        for pole in poles
    ]


def _gap_table(own: pd.DataFrame) -> Table:
    rows = []
    for place, group in own.groupby(["judge", "method"], sort=False):
        cells = {
            str(setting): _gap_cells(gaps)
            for setting, rows_of_setting in group.groupby("setting", sort=False)
            if (gaps := _gaps(rows_of_setting))
        }
        rows += [
            [*map(str, place), setting, *row] for setting, row in merged_settings(cells).items()
        ]
    headers = ["judge", "method", "setting", "widest gap", "served worst", "served best", "gap",
               "mean gap"]  # fmt: skip
    note = (
        "Accuracy in % with its range and the number of cases; gaps in percentage points. Groups "
        f"of fewer than {_FEWEST_CASES} cases are left out."
    )
    return Table(headers, rows, note, names=6)


def _gap_cells(gaps: Sequence[_Gap]) -> list[str]:
    gap, dimension, worst, best = gaps[0]
    mean = sum(each[0] for each in gaps) / len(gaps)
    poles = [f"{pole.pole} {_with_cases(pole)}" for pole in (worst, best)]
    return [dimension, *poles, points(gap), points(mean)]


def _with_cases(pole: pd.Series) -> str:
    return f"{with_range([_figure(pole)])}, {int(pole.cases)} cases"


def _figure(pole: pd.Series) -> Figure:
    """The accuracy of a group; users of one cluster alone have no interval."""
    low, high = (None if pd.isna(end) else float(end) for end in (pole.low, pole.high))
    return Figure(float(pole.accuracy), low, high)

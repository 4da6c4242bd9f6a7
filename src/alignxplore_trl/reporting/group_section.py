"""Accuracy by attribute group: the section of the report that looks for bias."""

from __future__ import annotations

from functools import partial

import pandas as pd

from alignxplore_trl.reporting.charts import share_chart
from alignxplore_trl.reporting.evaluations import Evaluations, judges_of, range_in_words
from alignxplore_trl.reporting.pages import Block, Fold, Numbers, Section, Text, draw, missing
from alignxplore_trl.reporting.results import Figure
from alignxplore_trl.reporting.tables import Table, points, with_range

_GAPS_SHOWN = 8


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
            table = Numbers(_gap_table(own))
            blocks.append(Fold(benchmark, [table], is_open=benchmark == evaluations.benchmarks[0]))
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


def _gaps(own: pd.DataFrame) -> list[tuple[float, str, pd.Series, pd.Series]]:
    """Of one method: gap, dimension, and its worst and best served pole, widest gap first."""
    gaps = []
    for dimension, poles in own.dropna(subset=["accuracy"]).groupby("dimension", sort=False):
        if len(poles) > 1:
            ordered = poles.sort_values("accuracy")
            worst, best = ordered.iloc[0], ordered.iloc[-1]
            gaps.append((float(best.accuracy - worst.accuracy), str(dimension), worst, best))
    return sorted(gaps, key=lambda gap: -gap[0])


def _widest(own: pd.DataFrame) -> list[tuple[str, Figure]]:
    return [
        (f"{dimension}: {pole.pole}", Figure(pole.accuracy, pole.low, pole.high))
        for _, dimension, *poles in _gaps(own)[:_GAPS_SHOWN]
        for pole in poles
    ]


def _gap_table(own: pd.DataFrame) -> Table:
    rows = []
    for place, group in own.groupby(["method", "setting", "judge"], sort=False):
        gaps = _gaps(group)
        if gaps:
            gap, dimension, worst, best = gaps[0]
            mean = sum(each[0] for each in gaps) / len(gaps)
            poles = [f"{pole.pole} {_with_cases(pole)}" for pole in (worst, best)]
            rows.append([*map(str, place), dimension, *poles, points(gap), points(mean)])
    headers = ["method", "setting", "judge", "widest gap", "served worst", "served best", "gap",
               "mean gap"]  # fmt: skip
    note = "Accuracy in % with its range and the number of cases; gaps in percentage points."
    return Table(headers, rows, note, names=6)


def _with_cases(pole: pd.Series) -> str:
    return f"{with_range([Figure(pole.accuracy, pole.low, pole.high)])}, {int(pole.cases)} cases"

"""From the files of an evaluation to its figures: a tidy table, and the flat summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case, read_cases
from alignxplore_trl.evaluation.benchmarks import ANY
from alignxplore_trl.evaluation.kept import KEY, records
from alignxplore_trl.evaluation.statistics import estimate, holm
from alignxplore_trl.evaluation.truth import compare_with_truth
from alignxplore_trl.evaluation.win_rate import Pair
from alignxplore_trl.run.errors import UserError

METHOD = ["method", "setting"]
FIGURE = ["metric", "benchmark", "judge", *METHOD, "dimension"]
COLUMNS = [*FIGURE, "value", "low", "high", "p", "p_holm", "n", "unanswered"]
# Figures that are the mean of a column of descriptions.parquet.
MEANS = ["tokens", "seconds", "prompt_tokens", "dropped_signals", "shortened_texts"]
SHARES = ["acc_jud", "acc_gen", "win_rate", "precision", "recall", "contradictions", "well_formed"]


def make_figures(folder: Path, pairs: Sequence[str]) -> pd.DataFrame:
    """All figures of an evaluation's folder (docs/evaluation.md), written to figures.parquet.

    Columns: `metric`, `benchmark`, `judge` (`any` where no judge has to do with it), `method`,
    `setting`, `dimension` (empty: all cases), the fields of `Estimate`, with intervals clustered by
    unit, `p_holm`, and `unanswered`.
    """
    verdicts, descriptions = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("verdicts", "descriptions")
    )
    cases = {
        (path.stem, case.case_id): case
        for path in (folder / "cases").glob("*.jsonl")
        for case in read_cases(path)
    }
    known = [(*key, name) for key, case in cases.items() for name in case.directions or {}]
    directions = pd.DataFrame(known, columns=["benchmark", "case_id", "dimension"])
    judged = verdicts.assign(value=verdicts.correct)
    parts = [judged, judged[~judged.setting.str.contains("@")].merge(directions)]
    if (path := folder / "wins.parquet").is_file():
        wins = pd.read_parquet(path)
        parts.append(wins.assign(metric="win_rate", value=wins.score))
    parts += [own.assign(judge=ANY) for own in _of_descriptions(descriptions, cases)]
    values = pd.concat(parts).fillna({"dimension": "", "weight": 1.0})
    rows = []
    for key, own in values.groupby(FIGURE, sort=False):
        row = dict(zip(FIGURE, key, strict=True))
        numbers = own.value.to_numpy(dtype=float, na_value=float("nan"))
        found = estimate(numbers, own.unit.tolist(), own.weight, share=row["metric"] in SHARES)
        unanswered = None if row["judge"] == ANY else int(own.value.isna().sum())
        rows.append(row | asdict(found) | {"unanswered": unanswered})
    rows += differences_of(verdicts, pairs)
    figures = pd.DataFrame(rows, columns=COLUMNS).fillna({"dimension": ""})
    figures.to_parquet(folder / "figures.parquet", index=False)
    return figures


def _of_descriptions(
    rows: pd.DataFrame, cases: Mapping[tuple[str, str], Case]
) -> list[pd.DataFrame]:
    """What descriptions are like, whoever judges them: `metric`, `value` and `weight` of each."""
    written = rows[rows.completion.notna()].rename(columns={"completion_tokens": "tokens"})
    columns = written.assign(well_formed=written.problem.isna())[["well_formed", *MEANS]]
    costs = written[[*KEY, "unit"]].join(columns.astype("Float64"))
    tried = rows[rows.description.notna() | rows.problem.notna()]
    compared = [
        {**row, "metric": metric, "value": value, "weight": weight}
        for row in records(tried[[*KEY, "unit", "description"]])
        for metric, (value, weight) in compare_with_truth(
            cases[row["benchmark"], row["case_id"]], row["description"]
        ).items()
    ]
    melted = costs.melt([*KEY, "unit"], var_name="metric")
    return [melted, pd.DataFrame(compared, columns=[*melted.columns, "weight"])]


def differences_of(verdicts: pd.DataFrame, pairs: Sequence[str]) -> list[dict[str, Any]]:
    """First minus second on the same cases, as rows of figures, for pairs as of `expand_pairs`.

    `method` and `setting` are `<first>-<second>` there. `p` is that of the paired t-test where
    units have one case each; `p_holm` is corrected over the pairs of one metric, benchmark, judge.
    """
    rows = []
    for (metric, *where), own in verdicts.groupby(FIGURE[:3], sort=False):
        units = own.drop_duplicates("case_id").set_index("case_id").unit
        wide = own.pivot(index="case_id", columns=METHOD, values="correct").astype(float)
        places = expand_pairs(pairs, own)
        found = [estimate(wide[a] - wide[b], units[wide.index].tolist()) for a, b in places]
        corrected = holm([each.p for each in found])
        for pair, each, p_holm in zip(places, found, corrected, strict=True):
            names = ("-".join(both) for both in zip(*pair, strict=True))
            key = dict(zip(FIGURE, (f"{metric}_difference", *where, *names), strict=False))
            rows.append(key | asdict(each) | {"p_holm": p_holm})
    return rows


def expand_pairs(pairs: Sequence[str], rows: pd.DataFrame) -> list[Pair]:
    """The places, of those that rows have, which pairs of methods mean.

    A pair is `<method> - <method>`, which compares equal settings, or has `/<setting>` behind a
    method, such as `rl/streaming4+4 - pba/base8`. A method that reads no history is compared with
    every setting. Pairs of which one side isn't there are left out.

    Raises:
        UserError: a pair is not of that form.
    """
    known = list(rows[METHOD].drop_duplicates().itertuples(index=False, name=None))
    found = []
    for pair in pairs:
        sides = [side.strip().partition("/") for side in pair.split(" - ")]
        if len(sides) != 2 or not all(side[0] for side in sides):
            raise UserError(
                f"evaluation: {pair!r} found, expected '<method> - <method>', with or without "
                "/<setting> behind each, such as rl/streaming4+4 - pba/base8"
            )
        ones, others = (
            [p for p in known if p[0] == name and (p[1] == at if at else "@" not in p[1])]
            for name, _, at in sides
        )
        given = any(at for _, _, at in sides)
        found += [
            (a, b) for a, b in product(ones, others) if given or a[1] == b[1] or ANY in (a[1], b[1])
        ]
    return found


def summarise(figures: pd.DataFrame) -> dict[str, float | int | None]:
    """One flat object, `metric/benchmark/judge/method/setting`, with `/low` and `/high` beside it.

    Figures that have to do with no judge stand under each of them. `cases` and `unanswered` count
    those with and without a verdict; differences have `/p` and `/p_holm`, too.
    """
    whole = figures[figures.dimension == ""]
    judges = whole[whole.metric == "acc_jud"][["benchmark", "judge", *METHOD]]
    free = whole[whole.judge == ANY].drop(columns="judge").merge(judges)
    summary: dict[str, float | int | None] = {}
    for row in records(pd.concat([whole[whole.judge != ANY], free])):
        metric, *where = (row[name] for name in FIGURE[:5])
        key = "/".join([metric, *where])
        ends = ["low", "high"] + ["p", "p_holm"] * metric.endswith("_difference")
        summary |= {key: row["value"]} | {f"{key}/{end}": row[end] for end in ends}
        if metric == "acc_jud":
            counts = {"cases": row["n"], "unanswered": int(row["unanswered"])}
            summary |= {"/".join([name, *where]): count for name, count in counts.items()}
    return summary


def table_of(figures: pd.DataFrame) -> str:
    """The figures of each benchmark for a terminal: shares in %, with half of their intervals."""
    order = [*SHARES, *MEANS[:2]]
    shown = figures[(figures.dimension == "") & figures.metric.isin(order)]
    half = (50 * (shown.high - shown.low)).map(" ±{:.1f}".format).str.replace(" ±nan", "")
    percent = (100 * shown.value).map("{:.1f}".format) + half
    text = percent.where(shown.metric.isin(SHARES), shown.value.map("{:.3g}".format))
    heads = shown.metric + (" " + shown.judge).where(shown.judge != ANY, "")
    shown = shown.assign(text=text.where(shown.value.notna(), "–"), head=heads)
    shown = shown.sort_values("metric", key=lambda own: own.map(order.index), kind="stable")
    parts = []
    for benchmark, own in shown.groupby("benchmark", sort=False):
        wide = own.pivot_table("text", METHOD, "head", "first", sort=False).fillna("–")
        table = wide.rename_axis(columns=None).reset_index().to_string(index=False)
        parts.append(f"{benchmark}\n{table}\n")
    return "\n".join(parts)

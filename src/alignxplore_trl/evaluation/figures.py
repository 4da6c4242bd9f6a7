"""From the files of an evaluation to its figures: a tidy table, and the flat summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case, read_cases
from alignxplore_trl.evaluation.benchmarks import ANY
from alignxplore_trl.evaluation.kept import records
from alignxplore_trl.evaluation.statistics import Estimate, estimate, holm
from alignxplore_trl.evaluation.truth import read_statements
from alignxplore_trl.evaluation.win_rate import Place
from alignxplore_trl.run.errors import UserError

Row = dict[str, Any]

PLACE = ["method", "setting"]
JUDGED = ["metric", "benchmark", "judge", *PLACE]
COLUMNS = [*JUDGED, "dimension", "value", "low", "high", "p", "p_holm", "n", "unanswered"]
# Figures that are the mean of a column of descriptions.parquet.
MEANS = {
    "tokens": "completion_tokens", "seconds": "seconds", "prompt_tokens": "prompt_tokens",
    "dropped_signals": "dropped_signals", "shortened_texts": "shortened_texts",
}  # fmt: skip
SHARES = ["acc_jud", "acc_gen", "win_rate", "precision", "recall", "contradictions", "well_formed"]


def make_figures(folder: Path, pairs: Sequence[str]) -> pd.DataFrame:
    """All figures of an evaluation's folder, which are written to figures.parquet.

    Columns: `metric`, `benchmark`, `judge` (`any` where no judge has to do with it), `method`,
    `setting`, `dimension` (empty: all cases), the fields of `Estimate`, with intervals clustered by
    unit, `p_holm`, and `unanswered`.

    - acc_jud, acc_gen: the mean of `correct`, also of those with a direction in a dimension.
    - acc_jud_difference, acc_gen_difference: see `differences_of`.
    - win_rate: the mean score of a comparison of replies.
    - well_formed: the share of the completions, of methods that write some.
    - precision (true among the stated directions), recall (stated among the user's), contradictions
      (descriptions that name both poles of a dimension): where directions are the world's.
    - tokens, seconds, prompt_tokens, dropped_signals, shortened_texts: means, of one round each.
    """
    paths = {name: folder / f"{name}.parquet" for name in ("descriptions", "verdicts", "wins")}
    tables = {name: pd.read_parquet(path) for name, path in paths.items() if path.is_file()}
    verdicts = tables["verdicts"]
    cases = {path.stem: read_cases(path) for path in (folder / "cases").glob("*.jsonl")}
    known = [
        {"benchmark": benchmark, "case_id": case.case_id, "dimension": dimension}
        for benchmark, own in cases.items()
        for case in own
        for dimension in case.directions or {}
    ]
    by_dimension = verdicts[~verdicts.setting.str.contains("@")].merge(
        pd.DataFrame(known, columns=["benchmark", "case_id", "dimension"])
    )
    rows = _means(verdicts, JUDGED, "correct") + differences_of(verdicts, pairs)
    rows += _means(by_dimension, [*JUDGED, "dimension"], "correct")
    if "wins" in tables:
        rows += _means(tables["wins"].assign(metric="win_rate"), JUDGED, "score")
    for key, own in tables["descriptions"].groupby(["benchmark", *PLACE], sort=False):
        where = dict(zip(["benchmark", *PLACE], key, strict=True))
        for metric, found in _of_descriptions(own, cases[str(key[0])]):
            rows.append({"metric": metric, "judge": ANY, **where, **asdict(found)})
    figures = pd.DataFrame(rows, columns=COLUMNS).fillna({"dimension": ""})
    figures.to_parquet(folder / "figures.parquet", index=False)
    return figures


def differences_of(verdicts: pd.DataFrame, pairs: Sequence[str]) -> list[Row]:
    """First minus second on the same cases, as rows of figures, for pairs as of `expand_pairs`.

    `method` and `setting` are `<first>-<second>` there. `p` is that of the paired t-test where
    units have one case each; `p_holm` is corrected over the pairs of one metric, benchmark, judge.
    """
    rows: list[Row] = []
    for key, own in verdicts.groupby(JUDGED[:3], sort=False):
        metric = f"{key[0]}_difference"
        units = own.drop_duplicates("case_id").set_index("case_id").unit
        wide = own.pivot(index="case_id", columns=PLACE, values="correct").astype(float)
        places = expand_pairs(pairs, own)
        found = [estimate(wide[a] - wide[b], units[wide.index].tolist()) for a, b in places]
        corrected = holm([each.p for each in found])
        for pair, each, p_holm in zip(places, found, corrected, strict=True):
            names = map("-".join, zip(*pair, strict=True))
            where = dict(zip(JUDGED, (metric, *key[1:], *names), strict=True))
            rows.append(where | asdict(each) | {"p_holm": p_holm})
    return rows


def expand_pairs(pairs: Sequence[str], rows: pd.DataFrame) -> list[tuple[Place, Place]]:
    """The places, of those that rows have, which pairs of methods mean.

    A pair is `<method> - <method>`, which compares equal settings, or has `/<setting>` behind a
    method, such as `rl/streaming4+4 - pba/base8`. A method that reads no history is compared with
    every setting. Pairs of which one side isn't there are left out.

    Raises:
        UserError: a pair is not of that form.
    """
    known = list(rows[PLACE].drop_duplicates().itertuples(index=False, name=None))
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
        both = [(one, other) for one in ones for other in others]
        given = any(at for _, _, at in sides)
        found += [(a, b) for a, b in both if given or a[1] == b[1] or ANY in (a[1], b[1])]
    return found


def summarise(figures: pd.DataFrame) -> dict[str, float | int | None]:
    """One flat object, `metric/benchmark/judge/method/setting`, with `/low` and `/high` beside it.

    Figures that have to do with no judge stand under each of them. `cases` and `unanswered` count
    those with and without a verdict; differences have `/p` and `/p_holm`, too.
    """
    summary: dict[str, float | int | None] = {}
    whole = figures[figures.dimension == ""]
    judges = whole[whole.metric == "acc_jud"].groupby(["benchmark", *PLACE]).judge.agg(list)
    for row in records(whole):
        place = (row["benchmark"], row["method"], row["setting"])
        ends = ["low", "high"] + ["p", "p_holm"] * row["metric"].endswith("_difference")
        for judge in judges.get(place, []) if row["judge"] == ANY else [row["judge"]]:
            where = "/".join((row["benchmark"], judge, row["method"], row["setting"]))
            summary[f"{row['metric']}/{where}"] = row["value"]
            summary |= {f"{row['metric']}/{where}/{end}": row[end] for end in ends}
            if row["metric"] == "acc_jud":
                counts = {f"cases/{where}": row["n"], f"unanswered/{where}": int(row["unanswered"])}
                summary |= counts
    return summary


def table_of(figures: pd.DataFrame) -> str:
    """The figures of each benchmark for a terminal: shares in %, with half of their intervals."""
    shown = figures[(figures.dimension == "") & figures.metric.isin([*SHARES, *list(MEANS)[:2]])]
    half = (50 * (shown.high - shown.low)).map(" ±{:.1f}".format).str.replace(" ±nan", "")
    percent = (100 * shown.value).map("{:.1f}".format) + half
    text = percent.where(shown.metric.isin(SHARES), shown.value.map("{:.3g}".format))
    text = text.where(shown.value.notna(), "–")
    heads = shown.metric + (" " + shown.judge).where(shown.judge != ANY, "")
    order = [
        head for metric in [*SHARES, *MEANS] for head in heads[shown.metric == metric].unique()
    ]
    parts = []
    for benchmark, own in shown.assign(text=text, head=heads).groupby("benchmark", sort=False):
        wide = own.pivot(index=PLACE, columns="head", values="text").fillna("–")
        rows = list(own[PLACE].drop_duplicates().itertuples(index=False, name=None))
        wide = wide.loc[rows, [head for head in order if head in wide]].rename_axis(columns=None)
        parts.append(f"{benchmark}\n{wide.reset_index().to_string(index=False)}\n")
    return "\n".join(parts)


def _means(rows: pd.DataFrame, keys: list[str], column: str) -> list[Row]:
    """The mean share of each place."""
    found = []
    for key, own in rows.groupby(keys, sort=False):
        values = own[column].to_numpy(dtype=float, na_value=float("nan"))
        mean = estimate(values, own.unit.tolist(), share=True)
        counts = {"unanswered": int(own[column].isna().sum())}
        found.append(dict(zip(keys, key, strict=True)) | asdict(mean) | counts)
    return found


def _of_descriptions(own: pd.DataFrame, cases: Sequence[Case]) -> Iterator[tuple[str, Estimate]]:
    """What one method's descriptions are like, whoever judges them."""
    written = own[own.completion.notna()]
    if len(written):
        units = written.unit.tolist()
        yield "well_formed", estimate(written.problem.isna(), units, share=True)
        for metric, column in MEANS.items():
            yield metric, estimate(written[column].to_numpy(float, na_value=float("nan")), units)
    by_id = {case.case_id: case for case in cases}
    tried = own[own.description.notna() | own.problem.notna()]
    read = [read_statements(by_id[row["case_id"]], row["description"]) for row in records(tried)]
    known = [each for each in read if each is not None]
    if not known or len(known) < len(read):
        return
    found, units = pd.DataFrame(known), tried.unit.tolist()
    for metric, whole in (("precision", found.stated), ("recall", found.wanted)):
        yield metric, estimate(found.true / whole.where(whole > 0), units, whole, share=True)
    described = found.contradictory.astype(float).where(tried.description.notna().to_numpy())
    yield "contradictions", estimate(described, units, share=True)

"""From the files of an evaluation to its figures: tidy tables, and the flat summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case, read_cases
from alignxplore_trl.evaluation.benchmarks import ANY
from alignxplore_trl.evaluation.statistics import Estimate, estimate, holm
from alignxplore_trl.evaluation.truth import knows_directions, read_statements
from alignxplore_trl.run.errors import UserError

Row = dict[str, Any]
Place = tuple[str, str]  # a method, and its setting

FAMILY = ["metric", "benchmark", "judge"]
PLACE = ["method", "setting"]
# The mean of a column of descriptions.parquet, by the figure's name.
MEANS = {
    "tokens": "completion_tokens",
    "prompt_tokens": "prompt_tokens",
    "seconds": "seconds",
    "dropped_signals": "dropped_signals",
    "shortened_texts": "shortened_texts",
}
COLUMNS = [*FAMILY, *PLACE, "dimension", "value", "low", "high", "p", "n", "unanswered", "p_holm"]
SHOWN = (
    "acc_jud", "acc_gen", "win_rate", "precision", "recall", "contradictions", "well_formed",
    "tokens", "seconds",
)  # fmt: skip


def make_figures(folder: Path, pairs: Sequence[str]) -> pd.DataFrame:
    """All figures of an evaluation's folder, which are written to figures.parquet.

    Columns: `metric`, `benchmark`, `judge` (`any` where no judge has to do with it), `method`,
    `setting`, `dimension` (empty: all cases), the fields of `Estimate` with intervals clustered by
    unit, `unanswered`, and `p_holm`.

    - acc_jud, acc_gen: the mean of `correct`; also over the cases that prefer a pole of a dimension.
    - acc_jud_difference, acc_gen_difference: see `differences_of`.
    - win_rate: the mean score of a comparison of replies.
    - well_formed: the share of the completions, of methods that write some.
    - precision (true among the stated directions), recall (stated among the user's), contradictions
      (descriptions that name both poles of a dimension): where directions are the world's.
    - tokens, prompt_tokens, seconds, dropped_signals, shortened_texts: means, of one round each.

    Args:
        folder: with the files that the evaluation has made.
        pairs: whose differences are wanted, see `differences_of`.
    """
    described, verdicts = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("descriptions", "verdicts")
    )
    cases = {path.stem: read_cases(path) for path in (folder / "cases").glob("*.jsonl")}
    rows = [
        {**dict(zip(FAMILY + PLACE, key, strict=True)), **_share(own.correct, own.unit)}
        for key, own in verdicts.groupby(FAMILY + PLACE, sort=False)
    ]
    rows += _by_dimension(verdicts, cases) + differences_of(verdicts, pairs)
    for key, own in described.groupby(["benchmark", *PLACE], sort=False):
        where = dict(zip(["benchmark", *PLACE], key, strict=True))
        for metric, found in _of_descriptions(own, cases[str(key[0])]):
            rows.append({"metric": metric, "judge": ANY, **where, **asdict(found)})
    if (folder / "wins.parquet").is_file():
        keys = ["benchmark", "judge", *PLACE]
        for key, own in pd.read_parquet(folder / "wins.parquet").groupby(keys, sort=False):
            where = dict(zip(keys, key, strict=True))
            rows.append({"metric": "win_rate", **where, **_share(own.score, own.unit)})
    figures = pd.DataFrame(rows, columns=COLUMNS).fillna({"dimension": ""})
    figures.to_parquet(folder / "figures.parquet", index=False)
    return figures


def differences_of(verdicts: pd.DataFrame, pairs: Sequence[str]) -> list[Row]:
    """First minus second on the same cases, as rows of figures.

    `method` is `<first>-<second>` there, and `setting` likewise. `p` is that of the paired t-test
    where units have one case each; `p_holm` is corrected over the pairs of one metric, benchmark and
    judge.

    Args:
        verdicts: rows of `verdicts_table`.
        pairs: see `expand_pairs`.
    """
    rows: list[Row] = []
    for (metric, benchmark, judge), own in verdicts.groupby(FAMILY, sort=False):
        units = own.drop_duplicates("case_id").set_index("case_id").unit
        wide = own.pivot(index="case_id", columns=PLACE, values="correct").astype(float)
        places = expand_pairs(pairs, own)
        found = [
            estimate(wide[first] - wide[second], units[wide.index].tolist())
            for first, second in places
        ]
        corrected = holm([each.p for each in found])
        for (first, second), each, p_holm in zip(places, found, corrected, strict=True):
            method, setting = (f"{one}-{other}" for one, other in zip(first, second, strict=True))
            where = {"metric": f"{metric}_difference", "benchmark": benchmark, "judge": judge}
            place = {"method": method, "setting": setting}
            rows.append({**where, **place, **asdict(each), "p_holm": p_holm})
    return rows


def expand_pairs(pairs: Sequence[str], rows: pd.DataFrame) -> list[tuple[Place, Place]]:
    """The places, of those that rows have, which pairs of methods mean.

    Args:
        pairs: `<method> - <method>`, which compares equal settings, or with `/<setting>` behind a
            method, such as `rl/streaming4+4 - pba/base8`. A method that reads no history is compared
            with every setting. Pairs of which one side isn't there are left out.
        rows: with columns `method` and `setting`.

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
        given = any(at for _, _, at in sides)
        found += [
            (one, other)
            for one in ones
            for other in others
            if given or one[1] == other[1] or ANY in (one[1], other[1])
        ]
    return found


def summarise(figures: pd.DataFrame) -> dict[str, float | int | None]:
    """One flat object, `metric/benchmark/judge/method/setting`, with `/low` and `/high` beside it.

    Figures that have to do with no judge stand under each of them. `cases` and `unanswered` count
    those with and without a verdict. Differences have `/p` and `/p_holm`, too. Where each case has one
    dimension, the accuracy by dimension is at `acc_jud/<benchmark>:<dimension>/…`.
    """
    summary: dict[str, float | int | None] = {}
    judged = figures[(figures.metric == "acc_jud") & (figures.dimension == "")]
    judges_at = judged.groupby(["benchmark", *PLACE]).judge.agg(list).to_dict()
    divided = _divided_by_dimension(figures)
    for row in figures.astype(object).where(figures.notna(), None).to_dict("records"):
        at = (row["benchmark"], row["method"], row["setting"])
        if row["dimension"] and row["benchmark"] not in divided:
            continue
        benchmark = ":".join(filter(None, (row["benchmark"], row["dimension"])))
        ends = ("low", "high", "p", "p_holm")[: 4 if row["metric"].endswith("_difference") else 2]
        for judge in judges_at.get(at, []) if row["judge"] == ANY else [row["judge"]]:
            where = "/".join((benchmark, judge, row["method"], row["setting"]))
            summary[f"{row['metric']}/{where}"] = row["value"]
            summary |= {f"{row['metric']}/{where}/{end}": row[end] for end in ends}
            if row["metric"] == "acc_jud":
                summary |= {f"cases/{where}": row["n"], f"unanswered/{where}": row["unanswered"]}
    return summary


def table_of(figures: pd.DataFrame) -> str:
    """The figures of each benchmark for a terminal: shares in %, with half of their intervals."""
    parts = []
    whole = figures[(figures.dimension == "") & ~figures.metric.str.endswith("_difference")]
    for benchmark, own in whole[whole.metric.isin(SHOWN)].groupby("benchmark", sort=False):
        share = ~own.metric.isin(MEANS)
        half = 50 * (own.high - own.low)
        text = (100 * own.value).map("{:.1f}".format) + half.map(" ±{:.1f}".format)
        text = text.where(share, own.value.map("{:.3g}".format)).where(own.value.notna(), "–")
        judge = own.judge.where(own.judge != ANY, "").str.join("")
        column = (own.metric + " " + judge).str.strip()
        order = [name for metric in SHOWN for name in column[own.metric == metric].unique()]
        wide = own.assign(text=text.str.replace(" ±nan", ""), column=column).pivot(
            index=PLACE, columns="column", values="text"
        )
        places = list(own[PLACE].drop_duplicates().itertuples(index=False, name=None))
        wide = wide.loc[places, order].fillna("–").rename_axis(columns=None).reset_index()
        parts.append(f"{benchmark}\n{wide.to_string(index=False)}\n")
    return "\n".join(parts)


def _share(values: pd.Series[Any], units: pd.Series[Any]) -> Row:
    found = estimate(_numbers(values), units.tolist(), share=True)
    return asdict(found) | {"unanswered": int(values.isna().sum())}


def _numbers(column: Any) -> Any:
    return column.to_numpy(dtype=float, na_value=float("nan"))


def _by_dimension(verdicts: pd.DataFrame, cases: Mapping[str, Sequence[Case]]) -> list[Row]:
    known = [
        {"benchmark": benchmark, "case_id": case.case_id, "dimension": dimension}
        for benchmark, own in cases.items()
        for case in own
        for dimension in case.directions or {}
    ]
    if not known:
        return []
    last = verdicts[~verdicts.setting.str.contains("@")]
    keys = [*FAMILY, *PLACE, "dimension"]
    return [
        {**dict(zip(keys, key, strict=True)), **_share(own.correct, own.unit)}
        for key, own in last.merge(pd.DataFrame(known)).groupby(keys, sort=False)
    ]


def _divided_by_dimension(figures: pd.DataFrame) -> set[str]:
    """The benchmarks whose cases have one dimension each, so that the dimensions divide them."""
    judged = figures[figures.metric == "acc_jud"]
    found = set()
    for benchmark, own in judged.groupby("benchmark"):
        last = own[~own.setting.str.contains("@")]
        whole, parts = last[last.dimension == ""].n.sum(), last[last.dimension != ""].n.sum()
        if whole == parts:
            found.add(str(benchmark))
    return found


def _of_descriptions(own: pd.DataFrame, cases: Sequence[Case]) -> Iterator[tuple[str, Estimate]]:
    """What one method's descriptions are like, whoever judges them."""
    written = own[own.completion.notna()]
    if len(written):
        yield "well_formed", estimate(written.problem.isna(), written.unit.tolist(), share=True)
        for metric, column in MEANS.items():
            yield metric, estimate(_numbers(written[column]), written.unit.tolist())
    by_id = {case.case_id: case for case in cases}
    tried = own[(own.description.notna() | own.problem.notna()) & own.case_id.isin(by_id)]
    if not len(tried) or not knows_directions([by_id[case_id] for case_id in tried.case_id]):
        return
    texts = tried.description.astype(object).where(tried.description.notna(), None)
    found = pd.DataFrame(
        [
            asdict(read_statements(by_id[case_id], text))
            for case_id, text in zip(tried.case_id, texts, strict=True)
        ]
    )
    units = tried.unit.tolist()
    for metric, whole in (("precision", found.stated), ("recall", found.wanted)):
        yield metric, estimate(found.true / whole.where(whole > 0), units, whole, share=True)
    described = tried.description.notna().to_numpy()
    yield (
        "contradictions",
        estimate(found.contradictory.where(described).astype(float), units, share=True),
    )

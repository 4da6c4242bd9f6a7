"""The report of an evaluation: one page of tables, a chart, training curves, words and cases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import Case, read_cases
from alignxplore_trl.evaluation.benchmarks import ANY
from alignxplore_trl.reporting.charts import bar_chart, curve_chart, word_cloud
from alignxplore_trl.reporting.pages import render_page

ABSENT = "–"
# Heads of columns: of shares, which stand in %, and of means.
_SHARES = {
    "acc_jud": "ACC_jud", "acc_gen": "ACC_gen", "win_rate": "win rate", "precision": "precision",
    "recall": "recall", "contradictions": "contradictions", "well_formed": "well-formed",
}  # fmt: skip
_MEANS = {
    "tokens": "tokens", "prompt_tokens": "prompt tokens", "seconds": "s per case",
    "dropped_signals": "signals left out", "shortened_texts": "texts shortened",
}  # fmt: skip
_ACCURACIES, _COSTS = ("acc_jud", "acc_gen"), ("acc_jud", "prompt_tokens", "tokens", "seconds")
_CONTENT = ("well_formed", "precision", "recall", "contradictions", "dropped_signals",
            "shortened_texts")  # fmt: skip
_CURVES: Mapping[str, Mapping[str, str]] = {
    "cold_start": {"loss": "Loss", "mean_token_accuracy": "Accuracy of the next token"},
    "rl": {
        "reward": "Reward",
        "format/well_formed": "Well-formed share",
        "completions/mean_length": "Completion length (tokens)",
    },
}
_STAGES = ("backbone", "teacher", "cold_start", "rl")


@dataclass(frozen=True)
class Table:
    """A table of texts, the first `names` columns of which say what a row is of."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    names: int = 2


@dataclass(frozen=True)
class Section:
    """A part of the page; `note` says how its figures are to be read, captions name pictures."""

    title: str
    note: str
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)


def make_report(title: str, evaluation: Path, logs: Mapping[str, Path], count: int) -> str:
    """The page as HTML, which loads nothing from anywhere.

    Args:
        title: its heading.
        evaluation: the folder of the evaluation.
        logs: stage -> the trainer's log, one JSON object a line.
        count: how many cases of the first benchmark are shown, drawn by a hash of their names; 0
            shows nobody's texts.
    """
    figures, descriptions, verdicts = (
        pd.read_parquet(evaluation / f"{name}.parquet")
        for name in ("figures", "descriptions", "verdicts")
    )
    benchmark = str(figures.benchmark.iloc[0])
    last = ~descriptions.setting.str.contains("@")
    own = descriptions[(descriptions.benchmark == benchmark) & last]
    sections = [*_of_figures(figures), _training(logs), _words(own)]
    cases = {case.case_id: case for case in read_cases(evaluation / f"cases/{benchmark}.jsonl")}
    drawn = sorted(cases, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
    return render_page(
        "report.html.jinja",
        title=title,
        sections=[section for section in sections if section.tables or section.pictures],
        benchmark=benchmark,
        cases=[_shown(cases[name], own, verdicts) for name in drawn],
    )


def _training(logs: Mapping[str, Path]) -> Section:
    pictures = {}
    for stage, path in logs.items():
        log = pd.read_json(path, lines=True)
        if known := {name: head for name, head in _CURVES[stage].items() if name in log}:
            pictures[f"{stage}: {', '.join(known.values())}"] = curve_chart(log, known)
    return Section("Training", "Dots are logged values, lines their running mean.", [], pictures)


def _words(descriptions: pd.DataFrame) -> Section:
    pictures = {}
    for stage in _STAGES:
        texts = descriptions[descriptions.method == stage].description.dropna().tolist()
        if cloud := word_cloud(texts):
            pictures[f"{stage}, {len(texts):,} descriptions"] = cloud
    return Section("Words", "Of each stage's descriptions, as large as frequent.", [], pictures)


def _of_figures(figures: pd.DataFrame) -> Iterator[Section]:
    whole = figures[figures.dimension == ""]
    last = whole[~whole.setting.str.contains("@")]
    timed = whole[whole.metric == "seconds"]
    places = set(zip(timed.method, timed.setting, strict=True))
    rounds = whole[[place in places for place in zip(whole.method, whole.setting, strict=True)]]
    benchmark = str(figures.benchmark.iloc[0])
    first = last[(last.benchmark == benchmark) & (last.metric == "acc_jud")]
    yield Section(
        "Accuracy",
        "How often a model that reads the description picks the reply that the user chose, in % "
        "with 95 % intervals clustered by user. A malformed completion and a tie are wrong; a case "
        "without an answer is left out.",
        _tables(last, _ACCURACIES),
        {f"ACC_jud on {benchmark}": bar_chart(first)},
    )
    yield Section(
        "Paired differences",
        "First minus second in points, on the same cases, with 95 % intervals clustered by user; p "
        "as it is, and corrected by Holm over the pairs of one metric, benchmark and judge.",
        _differences(last[last.metric.str.endswith("_difference")]),
    )
    yield Section(
        "After each round",
        "…@k is what was there after round k of a longer setting. Tokens and seconds are those of "
        "this round alone, per case, where all cases are written together.",
        _tables(rounds.sort_values(["method", "setting"]), _COSTS),
    )
    yield Section(
        "Descriptions",
        "Precision: of the stated preferences, the true ones. Recall: of the true ones, the stated "
        "ones. Contradictions: descriptions that state both poles of a dimension.",
        _tables(last, _CONTENT),
    )
    yield Section(
        "Accuracy by dimension",
        "Over the cases whose user has a direction in the dimension.",
        _tables(figures[figures.dimension != ""], _ACCURACIES, by_dimension=True),
    )
    yield Section(
        "Win rates",
        "A judge that is told the true preference compares replies written under the descriptions "
        "of two methods, in both orders: wins and half of the ties, in %.",
        _tables(last, ["win_rate"]),
    )


def _tables(
    figures: pd.DataFrame, metrics: Sequence[str], by_dimension: bool = False
) -> list[Table]:
    """Rows of methods and settings, columns of metrics and judges; a table for each benchmark.

    By dimension, dimensions are the columns, and each metric and judge has a table.
    """
    known = figures[figures.metric.isin(metrics)]
    known = known.sort_values("metric", key=lambda own: own.map(metrics.index), kind="stable")
    heads = known.metric.map(_SHARES | _MEANS) + (" (" + known.judge + ")").where(
        known.judge != ANY, ""
    )
    titles = known.benchmark + ", " + heads if by_dimension else known.benchmark
    columns = known.dimension if by_dimension else heads
    found = []
    for title, own in known.assign(column=columns).groupby(titles, sort=False):
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for row in own.to_dict("records"):
            rows.setdefault((row["method"], row["setting"]), {})[row["column"]] = _cell(row)
        names = list(dict.fromkeys(own.column))
        cells = [[*place, *(of.get(name, ABSENT) for name in names)] for place, of in rows.items()]
        found.append(Table(str(title), ["method", "setting", *names], cells))
    return found


def _differences(figures: pd.DataFrame) -> list[Table]:
    heads = ["methods", "settings", "of", "points", "cases", "p", "p, Holm"]
    tables = []
    for benchmark, own in figures.groupby("benchmark", sort=False):
        rows = [
            [
                row["method"],
                row["setting"],
                f"{_SHARES[row['metric'].removesuffix('_difference')]} ({row['judge']})",
                _cell(row, sign="+"),
                f"{row['n']:,}",
                *map(_p_value, (row["p"], row["p_holm"])),
            ]
            for row in own.to_dict("records")
        ]
        tables.append(Table(str(benchmark), heads, rows, names=3))
    return tables


def _cell(row: Mapping[Any, Any], sign: str = "") -> str:
    value, ends = row["value"], (row["low"], row["high"])
    if pd.isna(value):
        return ABSENT
    if row["metric"] in _MEANS:
        return f"{value:,.3g}"
    known = not any(map(pd.isna, ends))
    low, high = (f"{100 * end:{sign}.1f}" if known else "" for end in ends)
    return f"{100 * value:{sign}.1f}" + (f" ({low} to {high})" if known else "")


def _p_value(p: float) -> str:
    return ABSENT if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _shown(case: Case, descriptions: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, Any]:
    """What the page shows of one case: itself, and what each model wrote, with its verdicts."""
    own = descriptions[(descriptions.case_id == case.case_id) & descriptions.completion.notna()]
    said = own.astype(object).where(own.notna(), None).to_dict("records")
    of_case = verdicts[verdicts.case_id == case.case_id].to_dict("records")
    for row in said:
        place = [row[key] for key in ("benchmark", "method", "setting")]
        found = [v for v in of_case if [v["benchmark"], v["method"], v["setting"]] == place]
        row["verdicts"] = [_verdict(verdict) for verdict in found]
    return {"case": case, "said": said}


def _verdict(row: Mapping[Any, Any]) -> dict[str, str]:
    outcome = "unanswered" if pd.isna(row["correct"]) else "right" if row["correct"] else "wrong"
    unit = "{:.0%}" if row["metric"] == "acc_jud" else "{:+.2f} nats"
    detail = "" if pd.isna(row["value"]) else ", " + unit.format(row["value"])
    return {"judge": row["judge"], "outcome": outcome, "detail": detail}

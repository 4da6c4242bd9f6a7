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
    """A part of the page; the template says by its title how it is to be read."""

    title: str
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)  # By their captions.


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
    return Section("Training", [], pictures)


def _words(descriptions: pd.DataFrame) -> Section:
    pictures = {}
    for stage in _STAGES:
        texts = descriptions[descriptions.method == stage].description.dropna().tolist()
        if cloud := word_cloud(texts):
            pictures[f"{stage}, {len(texts):,} descriptions"] = cloud
    return Section("Words", [], pictures)


def _of_figures(figures: pd.DataFrame) -> Iterator[Section]:
    whole = figures[figures.dimension == ""]
    last = whole[~whole.setting.str.contains("@")]
    places = pd.MultiIndex.from_frame(whole[["method", "setting"]])
    rounds = whole[places.isin(places[whole.metric == "seconds"])]
    benchmark = str(figures.benchmark.iloc[0])
    first = last[(last.benchmark == benchmark) & (last.metric == "acc_jud")]
    chart = {f"ACC_jud on {benchmark}": bar_chart(first)}
    yield Section("Accuracy", _tables(last, _ACCURACIES), chart)
    pairs = last[last.metric.str.endswith("_difference")]
    yield Section("Paired differences", _differences(pairs))
    rounds = rounds.sort_values(["method", "setting"])
    yield Section("After each round", _tables(rounds, _COSTS))
    yield Section("Descriptions", _tables(last, _CONTENT))
    parts = figures[figures.dimension != ""]
    yield Section("Accuracy by dimension", _tables(parts, _ACCURACIES, by_dimension=True))
    yield Section("Win rates", _tables(last, ["win_rate"]))


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
        own = own.assign(text=[_cell(row) for row in own.to_dict("records")])
        place = ["method", "setting"]
        wide = own.pivot_table("text", place, "column", "first", sort=False).fillna(ABSENT)
        cells = wide.reset_index().to_numpy().tolist()
        found.append(Table(str(title), [*place, *map(str, wide)], cells))
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
    if pd.isna(row["value"]):
        return ABSENT
    if row["metric"] in _MEANS:
        return f"{row['value']:,.3g}"
    value, low, high = (f"{100 * row[name]:{sign}.1f}" for name in ("value", "low", "high"))
    interval = "" if pd.isna(row["low"]) else f" ({low} to {high})"
    return (
        value
        + interval
        + (f", {row['unanswered']:.0f} unanswered" if row["unanswered"] > 0 else "")
    )


def _p_value(p: float) -> str:
    return ABSENT if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _shown(case: Case, descriptions: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, Any]:
    """What the page shows of one case: itself, and what each model wrote, with its verdicts."""
    own = descriptions[(descriptions.case_id == case.case_id) & descriptions.completion.notna()]
    said = own.astype(object).where(own.notna(), None).to_dict("records")
    judged = verdicts[verdicts.case_id == case.case_id].to_dict("records")
    for row in said:
        place = [row[key] for key in ("benchmark", "method", "setting")]
        found = [v for v in judged if [v["benchmark"], v["method"], v["setting"]] == place]
        row["verdicts"] = [
            {"judge": v["judge"], "outcome": _outcome(v["correct"]), "detail": _detail(v)}
            for v in found
        ]
    return {"case": case, "said": said}


def _outcome(correct: float) -> str:
    return "unanswered" if pd.isna(correct) else "right" if correct else "wrong"


def _detail(verdict: Mapping[Any, Any]) -> str:
    form = "{:.0%}" if verdict["metric"] == "acc_jud" else "{:+.2f} nats"
    return "" if pd.isna(verdict["value"]) else f", {form.format(verdict['value'])}"

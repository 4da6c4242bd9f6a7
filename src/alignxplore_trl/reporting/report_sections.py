"""The sections of the report that are made of an evaluation's figures and counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from alignxplore_trl.evaluation.judge_quality import calibration_bins, calibration_error
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.reporting.charts import (
    Line,
    Panel,
    accuracy_chart,
    calibration_chart,
    line_chart,
    training_chart,
)
from alignxplore_trl.reporting.evaluations import (
    Evaluations,
    Figures,
    judges_of,
    mean_figure,
    methods_of,
    over_number,
    range_in_words,
    signals_read,
    stages_of,
)
from alignxplore_trl.reporting.pages import (
    Block,
    Fold,
    Listing,
    Numbers,
    Section,
    Text,
    draw,
    missing,
)
from alignxplore_trl.reporting.results import FigureKey, names_of
from alignxplore_trl.reporting.tables import (
    ABSENT,
    Table,
    accuracies,
    comparison_name,
    percent,
    points,
    with_range,
)
from alignxplore_trl.reporting.word_clouds import count_words, word_cloud
from alignxplore_trl.run.metrics import read_metrics

_LEVEL = 0.05
_BETTER, _WORSE, _EVEN = " ▲", " ▼", " ≈"
# A chart of more bars than these isn't shown before it is asked for.
_BARS_AT_ONCE = 24
# As many as a chart has colours.
_LINES_SHOWN = 6
_IN_ROUNDS = "in rounds"
_CURVES: Mapping[str, str] = {
    "reward": "Reward",
    "completions/mean_length": "Completion length (tokens)",
    "format/well_formed": "Well-formed share",
    "completions/unscored": "Completions without a judgement",
    "loss": "Loss",
    "mean_token_accuracy": "Accuracy of the next token",
}
_RL_CURVES = ("reward", "completions/mean_length", "format/well_formed", "completions/unscored")
_COLD_START_CURVES = ("loss", "mean_token_accuracy")
_COST: Mapping[str, str] = {
    "seconds": "s per case",
    "prompt_tokens": "prompt tokens",
    "completion_tokens": "completion tokens",
}
# What isn't for readers of a report: folders and addresses of the machines it was made on.
_PRIVATE = ("paths", "tracking", "server")


def results(evaluations: Evaluations, reference: str) -> Section:
    """Accuracy of every method on every benchmark, with marks of significance.

    Args:
        evaluations: what was evaluated.
        reference: the method that marks compare with, in the same setting.
    """
    figures, folds = evaluations.figures, list[Block]()
    for number, benchmark in enumerate(evaluations.benchmarks):
        marks = _marks(figures, benchmark, reference)
        table = accuracies(figures, benchmark, marks)
        note = f"{table.note} {_legend_of_marks(len(marks), reference, len(figures))}"
        blocks: list[Block] = [Numbers(replace(table, note=note))]
        if number == 0:
            blocks.append(_accuracy_chart(evaluations, benchmark, len(table.rows)))
        folds.append(Fold(benchmark, blocks, is_open=number == 0))
    return Section("results", "Accuracy", folds)


def comparisons(evaluations: Evaluations) -> Section:
    """The paired differences that the evaluation was asked for, with both tests."""
    title = "Paired comparisons"
    figures, folds = evaluations.figures, list[Block]()
    for benchmark in evaluations.benchmarks:
        rows = []
        for metric, kind in (("acc_jud", ""), ("acc_gen", " (gen.)")):
            for key in names_of(figures, f"{metric}_difference"):
                if key.benchmark == benchmark:
                    rows.append(_comparison_row(figures, key, f"{key.judge}{kind}"))
        if rows:
            headers = ["accuracy of", "judge", "points", "cases", "McNemar p", "corrected",
                       "t-test p", "corrected"]  # fmt: skip
            table = Numbers(Table(headers, rows, _comparison_note(len(figures))))
            folds.append(Fold(benchmark, [table], is_open=not folds))
    if not folds:
        return missing(
            "comparisons",
            title,
            "No two of the methods of this evaluation are among the pairs of "
            "evaluation.differences, such as rl_base4/base4 - backbone/base4.",
        )
    return Section("comparisons", title, folds)


def training(evaluations: Evaluations, runs: Mapping[str, Mapping[str, Path]]) -> Section:
    """Curves of the trainings whose policies were evaluated.

    Args:
        evaluations: what was evaluated.
        runs: the folder of each training by policy, and by the label of its evaluation.
    """
    title = "Training curves"
    if not runs:
        return missing(
            "training",
            title,
            "No trained policy was evaluated; make rl or make rl-streaming trains one, and "
            "make evaluate then takes it up.",
        )
    shown = {name.method for name in evaluations.methods}
    folds: list[Block] = []
    for policy, folders in runs.items():
        rows = {label: read_metrics(folder / "metrics.jsonl") for label, folder in folders.items()}
        logged = {label: own for label, own in rows.items() if own}
        keys = _RL_CURVES if policy.startswith("rl_") else _COLD_START_CURVES
        curves = {key: _CURVES[key] for key in keys}
        drawable = any(row.get(key) is not None for own in logged.values() for row in own
                       for key in keys)  # fmt: skip
        blocks: list[Block] = []
        if drawable:
            says = f"{policy}: {', '.join(curves.values()).lower()} over steps."
            chart = partial(training_chart, logged, curves=curves)
            blocks.append(draw(evaluations.charts, f"training_{policy}", says, chart))
            blocks.append(Numbers(_ends_of_curves(logged, curves)))
        absent = [label for label in folders if label not in logged]
        if absent:
            blocks.append(Text(f"No metrics.jsonl is left of the training of {', '.join(absent)}."))
        folds.append(Fold(policy, blocks, is_open=policy in shown))
    lead = Text(
        "Thin dots are logged values, lines their mean over a tenth of the steps. Completions "
        "without a judgement are left out of their group, never given a reward."
    )
    return Section("training", title, [lead, *folds])


def efficiency(evaluations: Evaluations) -> Section:
    """Accuracy and cost against the signals read: all at once, or in rounds."""
    title = "Efficiency"
    benchmark, figures = evaluations.benchmarks[0], evaluations.figures
    judge = judges_of(figures)[0]
    rows, lines = [], dict[MethodSetting, list[FigureKey]]()
    for name in methods_of(figures, benchmark):
        read = signals_read(name.setting)
        key = FigureKey("seconds", benchmark, judge, name.method, name.setting)
        if read is None or mean_figure(figures, key).value is None:
            continue
        in_rounds, signals = read
        accuracy = mean_figure(figures, replace(key, metric="acc_jud"))
        costs = [mean_figure(figures, replace(key, metric=metric)).value for metric in _COST]
        cells = [ABSENT if cost is None else f"{cost:,.3g}" for cost in costs]
        rows.append([name.method, name.setting, str(signals), with_range([accuracy]), *cells])
        group = MethodSetting(name.method, _IN_ROUNDS if in_rounds else "at once")
        lines.setdefault(group, []).append(key)
    if not rows:
        return missing(
            "efficiency",
            title,
            f"No method that writes was timed on {benchmark}; the evaluation measures seconds of "
            "policies and prompted models.",
        )
    blocks: list[Block] = [
        Text(
            "What one more round of signals costs. Read at once, the prompt holds all signals so "
            "far; in rounds, only the new ones and the description of the round before. Seconds "
            "and tokens are those of the last round, per case."
        )
    ]
    timed = {key for keys in lines.values() for key in keys}
    for name, keys in lines.items():
        if name.setting == _IN_ROUNDS and (first := _first_round(keys[0])) in timed:
            keys.insert(0, first)
    several = [name for name, keys in lines.items() if len(keys) > 1]
    drawn = {name: lines[name] for name in _drawn(evaluations, several)}
    if drawn:
        titles = {"acc_jud": f"Accuracy ({judge})", "seconds": "Seconds per case",
                  "prompt_tokens": "Prompt tokens"}  # fmt: skip
        panels = [
            Panel(label, [_cost_line(figures, name, keys, metric) for name, keys in drawn.items()],
                  is_share=metric == "acc_jud")
            for metric, label in titles.items()
        ]  # fmt: skip
        says = "Accuracy, seconds and prompt tokens against the signals read."
        chart = partial(line_chart, panels, measured="Signals read")
        blocks.append(draw(evaluations.charts, "efficiency", says, chart))
    headers = ["method", "setting", "signals", f"accuracy ({judge})", *_COST.values()]
    note = f"On {benchmark}; accuracy in % with its range."
    blocks.append(Fold("all settings", [Numbers(Table(headers, rows, note))], is_open=not drawn))
    return Section("efficiency", title, blocks)


def drift(evaluations: Evaluations) -> Section:
    """Accuracy against the number of signals that say the opposite, oldest first."""
    title = "Drift"
    figures = evaluations.figures
    families = dict[str, list[str]]()
    for benchmark in evaluations.benchmarks:
        if match := re.fullmatch(r"(.+)_drift(\d+)", benchmark):
            families.setdefault(match[1], []).append(benchmark)
    if not families:
        return missing(
            "drift",
            title,
            "No drift benchmarks in this evaluation; make evaluate "
            "BENCHMARKS=world,world_drift2,world_drift4,world_drift6 adds them.",
        )
    judge = judges_of(figures)[0]
    blocks: list[Block] = [
        Text(
            "The first signals of each history are reversed, as if the user's taste had changed "
            f"since; the target is not. Accuracy under {judge}."
        )
    ]
    for family, benchmarks in families.items():
        benchmarks.sort(key=_reversed_signals)
        names = [name for name in methods_of(figures, benchmarks[0])
                 if (read := signals_read(name.setting)) is not None
                 and read[1] >= max(map(_reversed_signals, benchmarks))]  # fmt: skip
        found = {
            name: over_number(
                figures,
                [FigureKey("acc_jud", each, judge, *name) for each in benchmarks],
                lambda key: _reversed_signals(key.benchmark),
            )
            for name in names
        }
        lines = [
            Line(" ".join(name), found[name], dashed=not name.setting.startswith("streaming"))
            for name in _drawn(evaluations, names)
        ]
        if lines:
            says = f"Accuracy on {family} against the number of reversed signals."
            panel = Panel(family, lines, is_share=True)
            chart = partial(line_chart, [panel], measured="Reversed signals")
            blocks.append(draw(evaluations.charts, f"drift_{family}", says, chart))
        headers = ["method", "setting", *(str(_reversed_signals(each)) for each in benchmarks)]
        rows = [
            [*name, *(with_range([figure]) for _, figure in points)]
            for name, points in found.items()
        ]
        note = "Accuracy in % by the number of reversed signals, with its range."
        table = Numbers(Table(headers, rows, note))
        blocks.append(Fold(f"{family}: all methods", [table], is_open=not lines))
    return Section("drift", title, blocks)


def calibration(evaluations: Evaluations, bins: int) -> Section:
    """How often each judge is right when it is so sure, over all methods and benchmarks.

    Args:
        evaluations: what was evaluated.
        bins: of equal width, between confidences of one half and 1.
    """
    columns = ["judge", "metric", "p_correct"]
    frames = [each.table("verdicts", columns).to_pandas() for each in evaluations.finished]
    asked = pd.concat(frames)
    asked = asked[(asked.metric == "acc_jud") & asked.p_correct.notna()]
    found = {
        str(judge): calibration_bins(own.p_correct.tolist(), bins)
        for judge, own in asked.groupby("judge", sort=False)
    }
    if not found:
        return missing(
            "calibration", "Calibration of the judges", "No judge gave a probability to compare."
        )
    says = "How often each judge is right against how sure it is."
    chart = draw(evaluations.charts, "calibration", says, partial(calibration_chart, found))
    rows = [
        [judge, f"{sum(each.cases for each in own):,}", percent(calibration_error(own))]
        for judge, own in found.items()
    ]
    note = (
        "Over all methods and benchmarks, whatever the judge was told of the user. ECE: the mean "
        "distance, in points, between how sure a judge is and how often it is right. The dashed "
        "line is a judge that is as often right as it is sure; a dot's area is its share of cases."
    )
    table = Numbers(Table(["judge", "verdicts", "ECE"], rows, note, names=1))
    return Section("calibration", "Calibration of the judges", [chart, table])


def win_rates(evaluations: Evaluations) -> Section:
    """How often a judge that knows the user prefers the reply written under one description."""
    title = "Win rates"
    figures = evaluations.figures
    keys = names_of(figures, "win_rate")
    if not keys:
        return missing(
            "win-rates",
            title,
            "No win rates in this evaluation; it measures them where it is told which model writes "
            "the replies.",
        )
    rows = [
        [
            comparison_name(key).replace(" minus ", " over "),
            key.benchmark,
            key.judge,
            with_range([mean_figure(figures, key)]),
            percent(mean_figure(figures, replace(key, metric="win_ties")).value),
            _count(figures, replace(key, metric="win_cases")),
        ]
        for key in keys
    ]
    note = (
        "A model writes a reply under the description of each of two methods, and a judge that is "
        "told the user's true preference says which is better, in both orders. Wins and half "
        f"of the ties in %, with {range_in_words(len(figures))}; above 50, the first method is "
        "better."
    )
    headers = ["reply of", "benchmark", "judge", "win rate", "ties", "cases"]
    return Section("win-rates", title, [Numbers(Table(headers, rows, note, names=3))])


def words(evaluations: Evaluations) -> Section:
    """A word cloud of the descriptions of each stage."""
    title = "Words of the descriptions"
    benchmark = evaluations.benchmarks[0]
    blocks: list[Block] = [
        Text(
            f"The words of all descriptions on {benchmark}, as large as they are frequent, by "
            "stage of the training. English stop words, and words of every description such "
            "as “prefers”, are left out."
        )
    ]
    for stage, (method, setting) in stages_of(evaluations.figures, benchmark).items():
        where = [("benchmark", "==", benchmark), ("method", "==", method),
                 ("setting", "==", setting)]  # fmt: skip
        texts = [
            row["description"]
            for each in evaluations.finished
            for row in each.table("descriptions", ["description"], where).to_pylist()
            if row["description"]
        ]
        counts = count_words(texts)
        heading = f"{stage}: {method} {setting}, {len(texts):,} descriptions"
        if counts:
            name = f"words_{stage.lower().replace(' ', '_')}"
            cloud = word_cloud(counts, name, evaluations.charts)
            blocks.append(Fold(heading, [cloud], is_open=True))
        else:
            blocks.append(Text(f"{heading}: no words to show."))
    if len(blocks) == 1:
        return missing("words", title, "No backbone and no trained policy was evaluated.")
    return Section("words", title, blocks)


def facts(evaluations: Evaluations) -> Section:
    """What was run, with what, and what was left out of it."""
    runs = [
        [each.folder.name, each.label, each.environment.get("commit", ABSENT)]
        for each in evaluations.finished
    ]
    versions = {
        name: [each.environment.get(name, ABSENT) for each in evaluations.finished]
        for each in evaluations.finished
        for name in each.environment
        if name not in ("commit", "seed")
    }
    labels = [each.label for each in evaluations.finished]
    configs: list[Block] = [
        Fold(
            f"configuration of {each.folder.name}",
            [Listing(yaml.safe_dump(_public(each.config), sort_keys=False, allow_unicode=True))],
        )
        for each in evaluations.finished
    ]
    left_out = [
        Fold(f"what was left out: {benchmark}", [Numbers(_left_out(evaluations, benchmark))])
        for benchmark in evaluations.benchmarks
    ]
    return Section(
        "facts",
        "What was run",
        [
            Numbers(Table(["evaluation", "seed", "commit"], runs, names=3)),
            *left_out,
            Fold(
                "versions",
                [Numbers(Table(["", *labels], [[name, *each] for name, each in versions.items()],
                               names=1 + len(labels)))],
            ),
            *configs,
            Text("The groups paths, tracking and server are left out of the configurations."),
        ],
    )  # fmt: skip


def _accuracy_chart(evaluations: Evaluations, benchmark: str, rows: int) -> Block:
    pooled = {
        f"{key.metric}/{key.benchmark}/{key.judge}/{key.method}/{key.setting}{end}": value
        for key in names_of(evaluations.figures, "acc_jud")
        for figure in [mean_figure(evaluations.figures, key)]
        for end, value in (("", figure.value), ("/low", figure.low), ("/high", figure.high))
    }
    says = f"Bars of the accuracies on {benchmark}, with their ranges; the table has the numbers."
    spread = range_in_words(len(evaluations.finished))
    chart = draw(
        evaluations.charts,
        "accuracy",
        says,
        partial(accuracy_chart, pooled, benchmark, spread=spread),
    )
    return Fold("as a chart", [chart], is_open=rows <= _BARS_AT_ONCE)


def _marks(figures: Sequence[Figures], benchmark: str, reference: str) -> dict[FigureKey, str]:
    """Marks of accuracies that were compared with the reference in the same setting."""
    marks = {}
    for key in names_of(figures, "mcnemar_p_corrected"):
        first, second = key.method.split("-")
        settings = key.setting.split("-")
        if key.benchmark != benchmark or reference not in (first, second):
            continue
        if settings[0] != settings[1]:
            continue
        other, sign = (first, 1) if second == reference else (second, -1)
        place = FigureKey("acc_jud", benchmark, key.judge, other, settings[0])
        marks[place] = _mark(figures, key, sign)
    return marks


def _mark(figures: Sequence[Figures], key: FigureKey, sign: int) -> str:
    """A difference counts if it is significant, with the same sign, in every evaluation."""
    found = [
        (each[key].value, sign * (each[replace(key, metric="acc_jud_difference")].value or 0.0))
        for each in figures
        if key in each
    ]
    sure = [p is not None and p < _LEVEL for p, _ in found]
    if all(sure) and all(gain > 0 for _, gain in found):
        return _BETTER
    if all(sure) and all(gain < 0 for _, gain in found):
        return _WORSE
    return _EVEN


def _legend_of_marks(marks: int, reference: str, seeds: int) -> str:
    if not marks:
        return (
            f"No method was compared with {reference} in the same setting, so nothing is marked; "
            "evaluation.differences names the pairs to compare, page.reference the reference."
        )
    every = " in every seed" if seeds > 1 else ""
    return (
        f"Against {reference} in the same setting:{_BETTER} better,{_WORSE} worse,{_EVEN} not told "
        f"apart; no mark: not compared. Better and worse mean p < {_LEVEL} in McNemar's exact "
        f"test, corrected (Holm) for all comparisons of that judge and benchmark{every}."
    )


def _comparison_row(figures: Sequence[Figures], key: FigureKey, judge: str) -> list[str]:
    difference = mean_figure(figures, key)
    tests = ["mcnemar_p", "mcnemar_p_corrected", "t_test_p", "t_test_p_corrected"]
    span = f"{points(difference.low)} to {points(difference.high)}"
    return [
        comparison_name(key),
        judge,
        f"{points(difference.value)} ({span})",
        _count(figures, replace(key, metric="paired_cases")),
        *(_p_values(figures, replace(key, metric=test)) for test in tests),
    ]


def _comparison_note(seeds: int) -> str:
    return (
        "Differences of accuracy on the same cases, in percentage points, with their "
        f"{range_in_words(seeds)}. p: McNemar's exact test and the paired t-test, as they are and "
        "corrected (Holm) for all comparisons of that judge and benchmark"
        + ("; one value per seed." if seeds > 1 else ".")
        + " Both tests take cases as independent of each other; the interval of the difference "
        "doesn't: it draws whole users."
    )


def _p_values(figures: Sequence[Figures], key: FigureKey) -> str:
    values = [each[key].value for each in figures if key in each]
    return " / ".join(map(_p_value, values)) or ABSENT


def _p_value(value: float | None) -> str:
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _count(figures: Sequence[Figures], key: FigureKey) -> str:
    """A count over all evaluations."""
    values = [each[key].value or 0 for each in figures if key in each]
    return f"{sum(values):,.0f}" if values else ABSENT


def _ends_of_curves(
    logged: Mapping[str, Sequence[Mapping[str, Any]]], curves: Mapping[str, str]
) -> Table:
    """The curves in numbers: their means over the first and the last tenth of the steps."""
    rows = []
    for label, metrics in logged.items():
        for key, title in curves.items():
            values = [row[key] for row in metrics if row.get(key) is not None]
            if values:
                tenth = max(1, len(values) // 10)
                ends = [sum(part) / tenth for part in (values[:tenth], values[-tenth:])]
                rows.append([label, title, *(f"{end:.3g}" for end in ends)])
    return Table(["run", "", "first tenth", "last tenth"], rows)


def _drawn(evaluations: Evaluations, names: Sequence[MethodSetting]) -> list[MethodSetting]:
    """Those of several methods that fit into a chart: the ones shown one by one, then policies.

    Those that read in rounds come first.
    """
    shown = {name.method for name in evaluations.methods}
    policies = [name for name in names if name.method.startswith("rl_")]
    policies.sort(key=lambda name: not name.setting.startswith((_IN_ROUNDS, "streaming")))
    ordered = [*(name for name in names if name.method in shown), *policies]
    return list(dict.fromkeys(ordered))[:_LINES_SHOWN]


def _first_round(key: FigureKey) -> FigureKey:
    """Where the first of several rounds stands: without an earlier description, it is base."""
    return replace(key, setting=re.sub(r"streaming(\d+).*", r"base\1", key.setting))


def _cost_line(
    figures: Sequence[Figures], name: MethodSetting, keys: Sequence[FigureKey], metric: str
) -> Line:
    def signals(key: FigureKey) -> float:
        read = signals_read(key.setting)
        assert read is not None
        return read[1]

    found = over_number(figures, [replace(key, metric=metric) for key in keys], signals)
    return Line(" ".join(name), found, dashed=name.setting == "at once")


def _reversed_signals(benchmark: str) -> int:
    return int(benchmark.rpartition("_drift")[2])


def _left_out(evaluations: Evaluations, benchmark: str) -> Table:
    figures = evaluations.figures
    malformed = Counter[MethodSetting]()
    columns = ["method", "setting", "format_problem"]
    where = [("benchmark", "==", benchmark), ("format_problem", "!=", "")]
    for each in evaluations.finished:
        for row in each.table("descriptions", columns, where).to_pylist():
            malformed[MethodSetting(row["method"], row["setting"])] += 1
    rows = []
    for name in methods_of(figures, benchmark):
        for judge in judges_of(figures):
            key = FigureKey("cases", benchmark, judge, *name)
            counted = ("cases", "judge_failures", "ties", "dropped_signals", "shortened_texts")
            cells = [_count(figures, replace(key, metric=metric)) for metric in counted]
            rows.append([*name, judge, *cells, f"{malformed[name]:,}"])
    headers = ["method", "setting", "judge", "cases", "no answer", "ties", "dropped signals",
               "shortened texts", "malformed"]  # fmt: skip
    note = (
        "no answer: left out of the accuracy. ties: the judge found both replies equal, no win. "
        "dropped signals and shortened texts: what the token budget kept from the model. "
        "malformed: completions that can't be read, which are wrong without asking a judge."
    )
    return Table(headers, rows, note, names=3)


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _public(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _PRIVATE
    }

"""Charts of results, drawn without a display, as PNG files or (where the path says so) as SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alignxplore_trl.evaluation.judge_quality import CalibrationBin, JudgeQuality
from alignxplore_trl.reporting.results import Figure, FigureKey, names_of, read_figures
from alignxplore_trl.text.budget import shorten

# A blue and an orange that stay apart for colour-blind readers and in grey print, then four more.
# All can be read on a light and on a dark ground.
COLOURS = ("#3b6fb5", "#e08a3c", "#5b9a68", "#8d6a9f", "#c0564f", "#4a9aa5")
_GREY = "#666666"
_PANELS_IN_A_ROW = 3

TRAINING_CURVES: Mapping[str, str] = {
    "reward": "Reward",
    "completions/mean_length": "Completion length (tokens)",
    "format/well_formed": "Well-formed share",
}


@dataclass(frozen=True)
class Line:
    """What one line of a panel joins.

    Attributes:
        label: its name in the legend, the same in every panel.
        points: x, and the figure at it; unknown figures are gaps.
        dashed: tells two kinds of lines apart.
    """

    label: str
    points: Sequence[tuple[float, Figure]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One of the panels of a chart of lines; `is_share` shows its values in percent."""

    title: str
    lines: Sequence[Line]
    is_share: bool = False


def accuracy_chart(
    summary: Mapping[str, Any], benchmark: str, path: Path, spread: str = "95 % interval"
) -> None:
    """Bars of accuracy, one group per method and setting, one bar per judge, with their intervals.

    A dashed line marks chance. Methods stand in the order of the summary, from top to bottom.

    Args:
        summary: holds the accuracies, with `/low` and `/high`.
        benchmark: whose accuracies are drawn.
        path: the file to write.
        spread: says what lies between low and high.

    Raises:
        ValueError: the summary has no accuracy for this benchmark.
    """
    figures = read_figures(summary)
    keys = [key for key in names_of([figures], "acc_jud") if key.benchmark == benchmark]
    if not keys:
        raise ValueError(f"no accuracy of the benchmark {benchmark!r} in this summary")
    judges = list(dict.fromkeys(key.judge for key in keys))
    rows = list(dict.fromkeys((key.method, key.setting) for key in keys))
    chart = Chart(figsize=(8, 1.3 + len(rows) * (0.22 + 0.22 * len(judges))), layout="constrained")
    axes = chart.add_subplot()
    height = 0.8 / len(judges)
    for number, judge in enumerate(judges):
        for row, (method, setting) in enumerate(rows):
            figure = figures.get(FigureKey("acc_jud", benchmark, judge, method, setting))
            if figure is not None and figure.value is not None:
                place = row - 0.4 + (number + 0.5) * height
                _bar(axes, place, height, figure, COLOURS[number % len(COLOURS)])
    handles = [
        axes.barh([0], [0], color=COLOURS[number % len(COLOURS)], label=judge)
        for number, judge in enumerate(judges)
    ]
    chance = axes.axvline(0.5, color=_GREY, linestyle="--", linewidth=1, label="chance", zorder=2)
    axes.set_yticks(range(len(rows)), [f"{method}  ({setting})" for method, setting in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"Cases in which the judge picks the right reply ({spread})")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    chart.legend(
        handles=[*handles, chance], loc="outside upper left", ncols=len(judges) + 1, frameon=False
    )
    _save(chart, path)


def judge_chart(qualities: Mapping[str, JudgeQuality], judge: str, path: Path) -> None:
    """A judge at a glance: how sure and how right it is, and what it answers.

    Left, calibration: each dot a bin of cases, its size their number, the dashed line a judge that
    is as often right as it is sure. Middle, the probability of the right reply; right, the label
    mass of its answers. One colour per kind of description.

    Args:
        qualities: what came of asking it, by the kind of description.
        judge: its name.
        path: the PNG file to write.
    """
    chart = Chart(figsize=(12, 3.8), layout="constrained")
    calibration, probability, mass = chart.subplots(1, 3)
    _calibration(calibration, {name: each.calibration for name, each in qualities.items()})
    for colour, (method, quality) in zip(COLOURS, qualities.items(), strict=False):
        answered = [own.probability for own in quality.preferences if own is not None]
        style: Any = {"histtype": "step", "linewidth": 2, "color": colour, "label": method}
        probability.hist(answered, bins=20, range=(0, 1), **style)
        mass.hist(quality.measurements.label_masses, bins=20, range=(0, 1), **style)
    probability.set(xlabel="Probability of the right reply", ylabel="Cases")
    mass.set(xlabel="Probability of A and B together", ylabel="Questions")
    for axes in (probability, mass):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = probability.get_legend_handles_labels()
    title = f"The judge {judge}, told of the user:"
    chart.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, title=title)
    _save(chart, path)


def calibration_chart(judges: Mapping[str, Sequence[CalibrationBin]], path: Path) -> None:
    """How often judges are right when they are so sure, one colour per judge.

    Args:
        judges: the bins of each, by its name; at least one has a bin.
        path: the file to write.
    """
    chart = Chart(figsize=(5.5, 4.2), layout="constrained")
    axes = chart.add_subplot()
    _calibration(axes, judges)
    axes.legend(frameon=False, loc="lower right")
    _save(chart, path)


def _calibration(axes: Axes, judges: Mapping[str, Sequence[CalibrationBin]]) -> None:
    """Dots as large as their share of the cases; the dashed line is a judge that knows itself."""
    axes.plot([0.5, 1], [0.5, 1], "--", color=_GREY, linewidth=1)
    for number, (name, bins) in enumerate(judges.items()):
        colour, cases = COLOURS[number % len(COLOURS)], sum(each.cases for each in bins)
        axes.plot(*_points_of(bins), color=colour, linewidth=1, alpha=0.6)
        sizes = [12 + 220 * each.cases / cases for each in bins]
        points: Any = {"s": sizes, "color": colour, "label": name}
        axes.scatter(*_points_of(bins), clip_on=False, zorder=3, **points)
    axes.set(xlabel="How sure it is", ylabel="How often it is right", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _points_of(bins: Sequence[CalibrationBin]) -> tuple[list[float], list[float]]:
    return [each.confidence for each in bins], [each.right for each in bins]


def training_chart(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    curves: Mapping[str, str] = TRAINING_CURVES,
) -> None:
    """Curves over training steps, one panel for each of `curves` (key in the metrics -> title).

    Thin dots are the logged values, the line is their mean over a tenth of the steps up to there.

    Args:
        runs: rows of `metrics.jsonl`, each with `step` and whatever was logged at it, by the name
            of the run, such as its seed; several have a legend.
        path: the file to write.
        curves: what to draw; what no run logged is left out.

    Raises:
        ValueError: none of the rows holds any of the curves.
    """
    rows = [row for metrics in runs.values() for row in metrics]
    drawn = [key for key in curves if any(row.get(key) is not None for row in rows)]
    if not drawn:
        raise ValueError(f"no row of the metrics holds any of {', '.join(curves)}")
    columns = 2 if len(drawn) == 4 else len(drawn)
    height = -(-len(drawn) // columns)
    chart = Chart(figsize=(4 * columns, 3.2 * height), layout="constrained")
    panels = chart.subplots(height, columns, squeeze=False).flat
    for axes, key in zip(panels, drawn, strict=True):
        for number, (name, metrics) in enumerate(runs.items()):
            points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
            colour = COLOURS[number % len(COLOURS)]
            steps, values = [step for step, _ in points], [value for _, value in points]
            axes.plot(steps, values, ".", color=colour, alpha=0.35, markersize=4)
            axes.plot(steps, _running_mean(values), color=colour, linewidth=2, label=name)
        axes.set_title(curves[key], fontsize=11)
        axes.set_xlabel("Step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        _legend_above(chart, panels[0])
    _save(chart, path)


def bar_panels(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Bars side by side in panels: the mean of several runs, and a dot for each of them.

    Args:
        panels: title -> row -> one value per run; a row without values has no bar.
        path: the PNG file to write.
    """
    rows = list(dict.fromkeys(row for bars in panels.values() for row in bars))
    chart, grid = _grid(len(panels), 3.0, 1 + 0.42 * len(rows), left=2.0)
    for number, (axes, (title, bars)) in enumerate(zip(grid, panels.items(), strict=True)):
        for place, row in enumerate(rows):
            if values := bars.get(row):
                axes.barh(place, fmean(values), 0.7, color=COLOURS[0])
                axes.plot(values, [place] * len(values), "o", color="black", markersize=4)
        axes.set_title(title, fontsize=11)
        is_first = number % _PANELS_IN_A_ROW == 0
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows] if is_first else [])
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    _save(chart, path)


def curve_panels(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], across: str, path: Path
) -> None:
    """Curves side by side in panels: the mean of several runs, and a dot for each of them.

    Args:
        panels: title -> line -> where on the x-axis -> one value per run.
        across: what the x-axis shows.
        path: the PNG file to write.
    """
    lines = list(dict.fromkeys(line for panel in panels.values() for line in panel))
    colours = {line: COLOURS[number % len(COLOURS)] for number, line in enumerate(lines)}
    chart, grid = _grid(len(panels), 4.0, 3.4)
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for line, points in curves.items():
            known = {x: values for x, values in sorted(points.items()) if values}
            axes.plot(list(known), [fmean(each) for each in known.values()], color=colours[line])
            for x, values in known.items():
                axes.plot([x] * len(values), values, "o", color=colours[line], markersize=3.5)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(across)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        handles = [Line2D([], [], color=colours[line]) for line in lines]
        chart.legend(handles, lines, loc="outside upper left", ncols=4, frameon=False)
    _save(chart, path)


def _grid(count: int, width: float, height: float, left: float = 0.0) -> tuple[Chart, list[Axes]]:
    """Panels of so many inches, in rows that fit a page; `left` is room for the labels of rows."""
    columns = min(count, _PANELS_IN_A_ROW)
    rows = -(-count // columns)
    size = (left + width * columns, height * rows)
    chart = Chart(figsize=size, layout="constrained")
    return chart, [chart.add_subplot(rows, columns, place + 1) for place in range(count)]


def line_chart(panels: Sequence[Panel], path: Path, measured: str) -> None:
    """Figures against a number, such as the signals read, with 95 % intervals as bands.

    Args:
        panels: drawn side by side, with one legend: their lines have the same labels, in the same
            order.
        path: the file to write.
        measured: says what the number is.
    """
    chart = Chart(figsize=(max(6.5, 4 * len(panels)), 4), layout="constrained")
    for axes, panel in zip(chart.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, line in enumerate(panel.lines):
            _line(axes, line, COLOURS[number % len(COLOURS)])
        axes.set_title(panel.title, fontsize=11)
        axes.set_xlabel(measured)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        else:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _legend_above(chart, chart.axes[0])
    _save(chart, path)


def _line(axes: Axes, line: Line, colour: str) -> None:
    known = [(x, figure) for x, figure in line.points if figure.value is not None]
    style: Any = {"color": colour, "linestyle": "--" if line.dashed else "-", "linewidth": 2}
    axes.plot([x for x, _ in known], [each.value or 0.0 for _, each in known],
              marker="o", markersize=4, label=line.label, **style)  # fmt: skip
    bounded = [
        (x, figure.low, figure.high)
        for x, figure in known
        if figure.low is not None and figure.high is not None
    ]
    if bounded:
        axes.fill_between(*np.array(bounded).T, color=colour, alpha=0.15, linewidth=0)


def _legend_above(chart: Chart, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    chart.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 if len(chart.axes) == 1 else 3,
        frameon=False,
    )


def balance_chart(
    balances: Sequence[tuple[str, Mapping[str, Mapping[str, int]]]], path: Path
) -> None:
    """How evenly the poles of each dimension are preferred, one line of dots per set.

    Args:
        balances: each set's name, and of each dimension its poles and who prefer them.
        path: the PNG file to write.
    """
    chart = Chart(figsize=(8, 1.2 + 0.5 * len(balances)), layout="constrained")
    axes = chart.add_subplot()
    for row, dimensions in enumerate([dimensions for _, dimensions in balances]):
        poles = [sorted(counts.items()) for counts in dimensions.values()]
        sizes = [sum(count for _, count in pairs) for pairs in poles]
        shares = [pairs[0][1] / size for pairs, size in zip(poles, sizes, strict=True)]
        areas = [6 + 120 * size / max(sizes) for size in sizes]
        axes.scatter(shares, [row] * len(shares), s=areas, color=COLOURS[0], alpha=0.4)
    axes.axvline(0.5, color=_GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(balances)), [name for name, _ in balances])
    axes.set_ylim(len(balances) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("Users who prefer one of a dimension's poles (dots: dimensions; area: users)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _save(chart, path)


def length_chart(
    lengths: Sequence[tuple[str, Sequence[int]]],
    path: Path,
    measured: str = "Tokens of a history",
    counted: str = "Cases",
) -> None:
    """How long the texts of each set are, as the share that is at most so long.

    Args:
        lengths: each set's name, and the tokens of each of its texts.
        path: the PNG file to write.
        measured: says whose tokens these are.
        counted: what a set consists of.
    """
    chart = Chart(figsize=(6, 3.4), layout="constrained")
    axes = chart.add_subplot()
    for number, (name, values) in enumerate(lengths):
        colour, style = COLOURS[number % len(COLOURS)], ("-", "--")[number // len(COLOURS)]
        axes.ecdf(values, label=name, color=colour, linestyle=style)
    axes.set_xlabel(measured)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel(f"{counted} with at most so many")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(chart, path)


def share_chart(
    groups: Mapping[str, Sequence[tuple[str, Figure]]], path: Path, measured: str
) -> None:
    """Shares, such as of verified candidates per round: a dot with its interval for each.

    Args:
        groups: rows by what they stand for (such as rounds), each a name and its share; a share
            that isn't known has its row, but no dot.
        path: the file to write.
        measured: says what the shares are of, and what their intervals are.

    Raises:
        ValueError: no share is known.
    """
    if not any(figure.value is not None for rows in groups.values() for _, figure in rows):
        raise ValueError(f"{measured}: none is known")
    rows = [(name, *row) for name, group in groups.items() for row in group]
    chart = Chart(figsize=(8, 1.5 + 0.24 * len(rows)), layout="constrained")
    axes = chart.add_subplot()
    for place, (group, _, figure) in enumerate(rows):
        _dot(axes, place, figure, COLOURS[list(groups).index(group) % len(COLOURS)])
    handles = [
        axes.plot([], [], "o", color=COLOURS[number % len(COLOURS)], label=name)[0]
        for number, name in enumerate(groups)
    ]
    # Names are data: a dollar sign in them begins no formula.
    axes.set_yticks(range(len(rows)), [_label(name) for _, name, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(measured)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    chart.legend(handles=handles, loc="outside upper left", ncols=len(groups), frameon=False)
    _save(chart, path)


def score_chart(scores: Mapping[str, Sequence[float]], threshold: float, path: Path) -> None:
    """What the verification measured, one histogram per group, with the threshold as a line.

    Args:
        scores: the finite scores of each group, by its name.
        threshold: above it, a candidate is verified.
        path: the PNG file to write.

    Raises:
        ValueError: there is no score.
    """
    found = [value for values in scores.values() for value in values]
    if not found:
        raise ValueError("no score to draw")
    # Bins of all groups together, so that the heights can be compared.
    bins = np.histogram_bin_edges([*found, threshold], bins=40).tolist()
    chart = Chart(figsize=(6, 3.4), layout="constrained")
    axes = chart.add_subplot()
    for number, (name, values) in enumerate(scores.items()):
        colour = COLOURS[number % len(COLOURS)]
        style: Any = {"histtype": "stepfilled", "alpha": 0.5, "color": colour, "edgecolor": colour}
        axes.hist(values, bins=bins, label=name, **style)
    axes.axvline(threshold, color=_GREY, linestyle="--", linewidth=1, label="threshold")
    axes.set(xlabel="Score of the verification", ylabel="Candidates")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(chart, path)


def _dot(axes: Axes, place: float, figure: Figure, colour: str) -> None:
    if figure.value is None:
        return
    axes.plot([figure.value], [place], "o", color=colour, markersize=6, zorder=3)
    end = figure.value
    if figure.low is not None and figure.high is not None:
        axes.hlines(place, figure.low, figure.high, color=colour, linewidth=1.5)
        end = figure.high
    axes.text(end + 0.015, place, f"{100 * figure.value:.1f}", va="center", fontsize=8.5)


def _label(name: str) -> str:
    """A name on one line that leaves room for the chart."""
    return shorten(" ".join(name.split()), 48)


def _bar(axes: Axes, place: float, height: float, figure: Figure, colour: str) -> None:
    assert figure.value is not None
    axes.barh(place, figure.value, height * 0.9, color=colour)
    end = figure.value
    if figure.low is not None and figure.high is not None:
        axes.hlines(place, figure.low, figure.high, color="black", linewidth=1.2)
        end = figure.high
    background = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    label = f"{100 * figure.value:.1f}"
    axes.text(end + 0.012, place, label, va="center", fontsize=8.5, bbox=background)


def _running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a window of a tenth of all values."""
    window = max(1, len(values) // 10)
    starts = [max(0, index + 1 - window) for index in range(len(values))]
    return [
        sum(values[start : index + 1]) / (index + 1 - start) for index, start in enumerate(starts)
    ]


def _save(chart: Chart, path: Path) -> None:
    """Write a PNG, or an SVG without a ground of its own, that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    # Letters stay letters in an SVG, and its ids are the same in every drawing of it.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        if path.suffix == ".svg":
            chart.savefig(unfinished, format="svg", transparent=True, metadata={"Date": None})
        else:
            chart.savefig(unfinished, dpi=150, format="png")
    os.replace(unfinished, path)

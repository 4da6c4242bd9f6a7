"""Tables of results, for a screen and for a README, over one seed or several."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from alignxplore_trl.evaluation.judge_quality import JudgeQuality
from alignxplore_trl.reporting.results import Figure, FigureKey, names_of, read_figures

TableStyle = Literal["plain", "markdown"]

_ABSENT = "–"
_SHARES = {
    "well_formed": "format",
    "precision": "prec.",
    "recall": "recall",
    "contradictions": "contra.",
}


def accuracy_table(
    summaries: Sequence[Mapping[str, Any]], benchmark: str, style: TableStyle = "plain"
) -> str:
    """One row per method and setting: accuracy under each judge, and what the descriptions state.

    A method whose figures are the same in every setting, such as one that reads no signals, has one
    row.

    Of one summary, each accuracy stands with its 95 % interval; of several (one per seed), the mean
    over the seeds stands with the lowest and the highest of them, and a row that some of them lack
    says so. Below the table: what the columns mean, and how many answers judges failed to give.
    """
    figures = [read_figures(summary) for summary in summaries]
    keys = [key for key in names_of(figures, "acc_jud") if key.benchmark == benchmark]
    judges = list(dict.fromkeys(key.judge for key in keys))
    rows = []
    for method in dict.fromkeys(key.method for key in keys):
        settings = dict.fromkeys(key.setting for key in keys if key.method == method)
        cells = {name: _cells(figures, benchmark, judges, method, name) for name in settings}
        same = len(cells) > 1 and len({tuple(row) for row in cells.values()}) == 1
        shown = {"any": next(iter(cells.values()))} if same else cells
        rows += [[row[0], setting, *row[1:]] for setting, row in shown.items()]
    headers = ["method", "setting", *judges, *_SHARES.values(), "tokens"]
    table = render_table(rows, headers, style)
    return f"{table}\n\n{_legend(figures, benchmark, style)}"


def _cells(
    figures: Sequence[Mapping[FigureKey, Figure]],
    benchmark: str,
    judges: Sequence[str],
    method: str,
    setting: str,
) -> list[str]:
    """A row of the accuracy table without its setting."""
    at = [(benchmark, judge, method, setting) for judge in judges]
    found = [_found(figures, "acc_jud", place) for place in at]
    seeds = max(map(len, found))
    name = method if seeds == len(figures) else f"{method} ({seeds} of {len(figures)} seeds)"
    shares = [_percent(_mean(_found(figures, metric, at[0]))) for metric in _SHARES]
    tokens = _mean(_found(figures, "description_tokens", at[0]))
    length = _ABSENT if tokens is None else f"{tokens:.0f}"
    return [name, *map(_with_range, found), *shares, length]


def difference_table(
    summaries: Mapping[str, Mapping[str, Any]], benchmark: str, style: TableStyle = "plain"
) -> str:
    """The paired differences in points: one row per comparison and judge, one column per run.

    Of several evaluations (one per seed), a last column gives the mean.

    Args:
        summaries: the evaluations by the name of their column, such as `seed 0`.
        benchmark: the benchmark whose comparisons are shown.
        style: for the screen or for a README.
    """
    figures = {name: read_figures(summary) for name, summary in summaries.items()}
    rows = []
    for key in names_of(list(figures.values()), "acc_jud_difference"):
        if key.benchmark != benchmark:
            continue
        found = [each.get(key) for each in figures.values()]
        known = [figure for figure in found if figure is not None]
        cells = [_ABSENT if each is None else _points_with_interval(each) for each in found]
        means = [_points(_mean(known))] if len(figures) > 1 else []
        rows.append([comparison_name(key), key.judge, *cells, *means])
    means = [f"mean of {len(figures)}"] if len(figures) > 1 else []
    return (
        render_table(rows, ["accuracy of", "judge", *figures, *means], style)
        + "\n\n"
        + _note(
            "Paired differences over the same cases, in percentage points with 95 % interval.",
            style,
        )
    )


def judge_table(qualities: Mapping[str, JudgeQuality], judge: str, without_description: int) -> str:
    """One row per kind of description that a judge was told, and what the columns mean.

    Args:
        qualities: what came of it, by the kind of description.
        judge: the judge's name.
        without_description: cases whose true description isn't known.
    """
    rows = [_judge_row(method, quality) for method, quality in qualities.items()]
    if "golden" not in qualities:
        rows.insert(0, ["golden", *[_ABSENT] * 9])
    headers = ["told", "accuracy", "gap", "P(A)", "label mass", "5 %", "unansw.", "ECE"]
    notes = (
        f"The judge {judge}, asked in both orders of the replies. Accuracy with its 95 % interval; "
        "gap, the mean distance of its answers in the two orders; P(A), the mean probability of "
        "the first reply; label mass, the mean probability of A and B together, and its lowest "
        "twentieth; unansw., questions without an answer; ECE, the mean distance between how sure "
        "it is and how often it is right; all in %. ms: median time of a request or a pass, and "
        "the longest twentieth."
    )
    if without_description:
        notes += f" The true description of {without_description} cases isn't known."
    headers += ["questions/s", "ms (95 %)"]
    return f"{render_table(rows, headers, 'plain')}\n\n{_note(notes, 'plain')}"


def _judge_row(method: str, quality: JudgeQuality) -> list[str]:
    found = quality.figures()
    speed, slow = found["latency_p50"], found["latency_p95"]
    per_second = found["questions_per_second"]
    accuracy = quality.accuracy
    return [
        method,
        _with_range([Figure(accuracy.value, accuracy.low, accuracy.high)]),
        *(
            _percent(found[name])
            for name in ("position_gap", "probability_a", "label_mass", "label_mass_p5")
        ),
        _percent((found["unanswered"] or 0) / max(1, found["questions"] or 0)),
        _percent(found["calibration_error"]),
        _ABSENT if per_second is None else f"{per_second:.0f}",
        _ABSENT if speed is None or slow is None else f"{1000 * speed:.0f} ({1000 * slow:.0f})",
    ]


def comparison_name(key: FigureKey) -> str:
    """`A a minus B b` for the key of a paired difference."""
    first, second = key.method.split("-")
    setting, other = key.setting.split("-")
    return f"{first} {setting} minus {second} {other}"


def _legend(
    figures: Sequence[Mapping[FigureKey, Figure]], benchmark: str, style: TableStyle
) -> str:
    counts = [
        (key, int(figure.value or 0))
        for each in figures
        for key, figure in each.items()
        if key.benchmark == benchmark and key.metric in ("cases", "judge_failures")
    ]
    cases = sorted({count for key, count in counts if key.metric == "cases"})
    failures = sum(count for key, count in counts if key.metric == "judge_failures")
    asked = sum(count for key, count in counts if key.metric == "cases")
    span = " to ".join(str(count) for count in dict.fromkeys([cases[0], cases[-1]])) if cases else 0
    spread = (
        "with 95 % interval"
        if len(figures) == 1
        else f"mean of {len(figures)} seeds (lowest–highest)"
    )
    return _note(
        f"Accuracy in % under each judge, {spread}; {span} cases per row. Shares in %: format, "
        "well-formed completions; prec., stated directions that are true; recall, true directions "
        "that are stated; contra., descriptions that contradict themselves. tokens: mean length of "
        "a description. "
        + (
            f"Judges gave no answer on {failures} of {asked} rows, which are left out."
            if failures
            else "Judges answered every question."
        ),
        style,
    )


def _note(text: str, style: TableStyle) -> str:
    return text if style == "markdown" else textwrap.fill(text, 110)


def _found(
    figures: Sequence[Mapping[FigureKey, Figure]], metric: str, at: tuple[str, str, str, str]
) -> list[Figure]:
    key = FigureKey(metric, *at)
    return [each[key] for each in figures if key in each]


def _mean(figures: Sequence[Figure]) -> float | None:
    values = [figure.value for figure in figures if figure.value is not None]
    return fmean(values) if values else None


def _with_range(figures: Sequence[Figure]) -> str:
    """A value with its interval or, for several, the mean with the lowest and the highest."""
    mean = _mean(figures)
    if mean is None:
        return _ABSENT
    if len(figures) == 1:
        low, high = figures[0].low, figures[0].high
    else:
        values = [figure.value for figure in figures if figure.value is not None]
        low, high = min(values), max(values)
    return f"{_percent(mean)} ({_percent(low)}–{_percent(high)})"


def _percent(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:+z.1f}"


def _points_with_interval(figure: Figure) -> str:
    return f"{_points(figure.value)} ({_points(figure.low)} to {_points(figure.high)})"


def render_table(rows: Sequence[Sequence[str]], headers: Sequence[str], style: TableStyle) -> str:
    """Columns as wide as their widest cell, the first two to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [
        [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (headers, *rows)
    ]
    if style == "plain":
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join("  ".join(line).rstrip() for line in lines)
    ends = [
        ":" + "-" * (width - 1) if n < 2 else "-" * (width - 1) + ":"
        for n, width in enumerate(widths)
    ]
    lines.insert(1, ends)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Tables of results, for a screen and for a README, over one seed or several."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from alignxplore_trl.evaluation.judge_quality import JudgeQuality
from alignxplore_trl.reporting.results import Figure, FigureKey, names_of, read_figures

TableStyle = Literal["plain", "markdown"]

# Stands where there is no figure.
ABSENT = "–"
_SHARES = {
    "well_formed": "format",
    "precision": "prec.",
    "recall": "recall",
    "contradictions": "contra.",
}


@dataclass(frozen=True)
class Table:
    """A table whose cells are texts.

    Attributes:
        headers: of its columns.
        rows: as many cells each.
        note: below the table: what the columns mean.
        names: how many columns, from the left, hold names rather than numbers.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    names: int = 2


def accuracy_table(
    summaries: Sequence[Mapping[str, Any]], benchmark: str, style: TableStyle = "plain"
) -> str:
    """`accuracies` as text."""
    table = accuracies([read_figures(summary) for summary in summaries], benchmark)
    return f"{render_table(table.rows, table.headers, style)}\n\n{_note(table.note, style)}"


def accuracies(
    figures: Sequence[Mapping[FigureKey, Figure]],
    benchmark: str,
    marks: Mapping[FigureKey, str] | None = None,
) -> Table:
    """One row per method and setting: its accuracies, and what the descriptions state.

    There is a column for each judge (`acc_jud`) and for each generator (`acc_gen`). A method whose
    figures are the same in every setting, such as one that reads no signals, has one row.

    Of one evaluation, each accuracy stands with its 95 % interval; of several (one per seed), the
    mean over the seeds stands with the lowest and the highest of them, and a row that some of them
    lack says so. The note says what the columns mean, and how many answers judges failed to give.

    Args:
        figures: of each evaluation.
        benchmark: whose accuracies are shown.
        marks: what stands behind an accuracy, such as a mark of significance.
    """
    keys = [
        key
        for metric in ("acc_jud", "acc_gen")
        for key in names_of(figures, metric)
        if key.benchmark == benchmark
    ]
    columns = list(dict.fromkeys((key.metric, key.judge) for key in keys))
    rows = []
    for method in dict.fromkeys(key.method for key in keys):
        settings = dict.fromkeys(key.setting for key in keys if key.method == method)
        cells = {
            setting: _cells(figures, (benchmark, method, setting), columns, marks or {})
            for setting in settings
        }
        rows += [[row[0], setting, *row[1:]] for setting, row in merged_settings(cells).items()]
    names = [judge if metric == "acc_jud" else f"{judge} (gen.)" for metric, judge in columns]
    headers = ["method", "setting", *names, *_SHARES.values(), "tokens"]
    return Table(headers, rows, _legend(figures, benchmark))


def merged_settings(rows: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Rows of one method by setting; one row, of `any`, where all of several are the same."""
    same = len(rows) > 1 and len({tuple(row) for row in rows.values()}) == 1
    return {"any": next(iter(rows.values()))} if same else dict(rows)


def _cells(
    figures: Sequence[Mapping[FigureKey, Figure]],
    place: tuple[str, str, str],
    columns: Sequence[tuple[str, str]],
    marks: Mapping[FigureKey, str],
) -> list[str]:
    """A row of the accuracies without its setting.

    Args:
        figures: of each evaluation.
        place: benchmark, method and setting.
        columns: metric and judge of each accuracy.
        marks: by the key of the accuracy.
    """
    benchmark, method, setting = place
    keys = [FigureKey(metric, benchmark, judge, method, setting) for metric, judge in columns]
    found = [_found(figures, key) for key in keys]
    seeds = max(map(len, found))
    name = method if seeds == len(figures) else f"{method} ({seeds} of {len(figures)} seeds)"
    shown = [
        f"{with_range(each)}{marks.get(key, '')}" for key, each in zip(keys, found, strict=True)
    ]
    first = {metric: replace(keys[0], metric=metric) for metric in (*_SHARES, "description_tokens")}
    shares = [percent(mean_of(_found(figures, first[metric]))) for metric in _SHARES]
    tokens = mean_of(_found(figures, first["description_tokens"]))
    return [name, *shown, *shares, ABSENT if tokens is None else f"{tokens:.0f}"]


def difference_table(
    summaries: Mapping[str, Mapping[str, Any]],
    benchmark: str,
    style: TableStyle = "plain",
    *,
    first_judge_only: bool = False,
) -> str:
    """The paired differences in points: one row per comparison and judge, one column per run.

    Of several evaluations (one per seed), a last column gives the mean.

    Args:
        summaries: the evaluations by the name of their column, such as `seed 0`.
        benchmark: the benchmark whose comparisons are shown.
        style: for the screen or for a README.
        first_judge_only: leave out the other judges: the first is the one to report under.
    """
    figures = {name: read_figures(summary) for name, summary in summaries.items()}
    keys = names_of(list(figures.values()), "acc_jud_difference")
    keys = [key for key in keys if key.benchmark == benchmark]
    if first_judge_only:
        keys = [key for key in keys if key.judge == keys[0].judge]
    rows = []
    for key in keys:
        found = [each.get(key) for each in figures.values()]
        known = [figure for figure in found if figure is not None]
        cells = [ABSENT if each is None else points_with_interval(each) for each in found]
        means = [points(mean_of(known))] if len(figures) > 1 else []
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


def win_rate_lines(summary: Mapping[str, Any], benchmark: str) -> list[str]:
    """The win rates of one evaluation, a line each."""
    figures = read_figures(summary)
    keys = [key for key in names_of([figures], "win_rate") if key.benchmark == benchmark]
    return [
        f"replies under {comparison_name(key).replace(' minus ', ' win against those under ')} in "
        f"{with_range([figures[key]])} % of "
        f"{figures[replace(key, metric='win_cases')].value} cases, ties counted by half, under "
        f"the judge {key.judge}"
        for key in keys
    ]


def judge_table(qualities: Mapping[str, JudgeQuality], judge: str, without_description: int) -> str:
    """One row per kind of description that a judge was told, and what the columns mean.

    Args:
        qualities: what came of it, by the kind of description.
        judge: the judge's name.
        without_description: cases whose true description isn't known.
    """
    rows = [_judge_row(method, quality) for method, quality in qualities.items()]
    if "golden" not in qualities:
        rows.insert(0, ["golden", *[ABSENT] * 9])
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
        with_range([Figure(accuracy.value, accuracy.low, accuracy.high)]),
        *(
            percent(found[name])
            for name in ("position_gap", "probability_a", "label_mass", "label_mass_p5")
        ),
        percent((found["unanswered"] or 0) / max(1, found["questions"] or 0)),
        percent(found["calibration_error"]),
        ABSENT if per_second is None else f"{per_second:.0f}",
        ABSENT if speed is None or slow is None else f"{1000 * speed:.0f} ({1000 * slow:.0f})",
    ]


def comparison_name(key: FigureKey) -> str:
    """`A a minus B b` for the key of a paired difference."""
    first, second = key.method.split("-")
    setting, other = key.setting.split("-")
    return f"{first} {setting} minus {second} {other}"


def _legend(figures: Sequence[Mapping[FigureKey, Figure]], benchmark: str) -> str:
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
    generators = any(
        key.metric == "acc_gen" and key.benchmark == benchmark for each in figures for key in each
    )
    return (
        f"Accuracy in % under each judge{' and generator (gen.)' * generators}, {spread}; "
        f"{span} cases per row. Shares in %: format, "
        "well-formed completions; prec., stated directions that are true; recall, true directions "
        "that are stated; contra., descriptions that contradict themselves. tokens: mean length of "
        "a description. "
        + (
            f"Judges gave no answer on {failures} of {asked} rows, which are left out."
            if failures
            else "Judges answered every question."
        )
    )


def _note(text: str, style: TableStyle) -> str:
    return text if style == "markdown" else textwrap.fill(text, 110)


def _found(figures: Sequence[Mapping[FigureKey, Figure]], key: FigureKey) -> list[Figure]:
    return [each[key] for each in figures if key in each]


def mean_of(figures: Sequence[Figure]) -> float | None:
    """The mean of the figures that are known."""
    values = [figure.value for figure in figures if figure.value is not None]
    return fmean(values) if values else None


def with_range(figures: Sequence[Figure]) -> str:
    """A value with its interval or, for several, the mean with the lowest and the highest."""
    mean = mean_of(figures)
    if mean is None:
        return ABSENT
    if len(figures) == 1:
        low, high = figures[0].low, figures[0].high
    else:
        values = [figure.value for figure in figures if figure.value is not None]
        low, high = min(values), max(values)
    return f"{percent(mean)} ({percent(low)}–{percent(high)})"


def percent(value: float | None) -> str:
    """A share in percent, without the sign."""
    return ABSENT if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return ABSENT if value is None else f"{100 * value:+z.1f}"


def points_with_interval(figure: Figure) -> str:
    """A difference of shares in percentage points with its interval."""
    return f"{points(figure.value)} ({points(figure.low)} to {points(figure.high)})"


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

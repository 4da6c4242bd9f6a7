"""What a study found: figures over seeds, paired differences over users, orderings in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Literal

import pandas as pd

from alignxplore_trl.evaluation.statistics import ClusteredBootstrap, Estimate
from alignxplore_trl.reporting.charts import bar_panels, curve_panels
from alignxplore_trl.reporting.results import Figure, FigureKey, read_figures
from alignxplore_trl.reporting.tables import TableStyle, render_table
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import read_summary

# What columns and panels call a figure; the first ones are measured by a judge or a generator each.
BY_JUDGE = {"acc_jud": "ACC_jud", "acc_gen": "ACC_gen"}
SHARES = {
    **BY_JUDGE,
    "precision": "precision",
    "recall": "recall",
    "contradictions": "contradictions",
    "well_formed": "well-formed",
}
AMOUNTS = {
    "completion_tokens": "completion tokens",
    "description_tokens": "description tokens",
    "prompt_tokens": "prompt tokens",
    "dropped_signals": "dropped signals",
    "seconds": "seconds per case",
}
_ABSENT = "–"


@dataclass(frozen=True)
class Place:
    """What a figure is of: a variant on a benchmark in a setting."""

    variant: str
    benchmark: str
    setting: str


@dataclass(frozen=True)
class Measure:
    """A column: a metric and, where judges measure it, whose it is."""

    metric: str
    judge: str | None

    @property
    def title(self) -> str:
        """What tables and charts call it."""
        name = {**SHARES, **AMOUNTS}[self.metric]
        return name if self.judge is None else f"{name}, {self.judge}"


@dataclass(frozen=True)
class EvaluatedVariant:
    """The evaluation of one variant with one seed.

    Attributes:
        variant: its label.
        seed: of the training and of the evaluation.
        figures: the variant's own, of the evaluation's summary.
        verdicts: one row per benchmark, metric, judge, setting and case, with `cluster`, `correct`
            and the case's `target`.
    """

    variant: str
    seed: int
    figures: Mapping[FigureKey, Figure]
    verdicts: pd.DataFrame


def read_evaluated_variant(folder: Path, variant: str, seed: int, method: str) -> EvaluatedVariant:
    """Read what an evaluation left of the method that stands for a variant.

    Args:
        folder: of the finished evaluation.
        variant: the variant's label.
        seed: of its training.
        method: what the evaluation calls it.
    """
    figures = read_figures(read_summary(folder))
    verdicts = pd.read_parquet(folder / "completions" / "verdicts.parquet")
    cases = pd.read_parquet(
        folder / "completions" / "cases.parquet", columns=["benchmark", "case_id", "target"]
    )
    return EvaluatedVariant(
        variant,
        seed,
        {key: figure for key, figure in figures.items() if key.method == method},
        verdicts[verdicts.method == method].merge(cases, on=["benchmark", "case_id"]),
    )


class StudyFigures:
    """The figures of all variants and seeds by place and measure.

    Args:
        evaluated: the evaluations, in the order of the variants.
        metrics: the figures that the study looks at.
        settings: the settings of each variant that are shown; `None`: all that were scored, also
            those that a setting of more rounds goes through.
        seed: of the resampling behind the intervals.
    """

    def __init__(
        self,
        evaluated: Sequence[EvaluatedVariant],
        metrics: Sequence[str],
        settings: Mapping[str, Sequence[str]] | None,
        seed: int,
    ) -> None:
        self._seed = seed
        self.seeds = sorted({each.seed for each in evaluated})
        self._evaluated = {(each.variant, each.seed): each for each in evaluated}
        keys = [(each.variant, key) for each in evaluated for key in each.figures]
        self.measures = _measures([key for _, key in keys], metrics)
        self.missing = [each for each in metrics if each not in {key.metric for _, key in keys}]
        found = dict.fromkeys(
            Place(variant, key.benchmark, key.setting)
            for variant, key in keys
            if key.metric in metrics and (settings is None or key.setting in settings[variant])
        )
        order = list(dict.fromkeys((place.variant, place.benchmark) for place in found))
        self.places = sorted(
            found,
            key=lambda place: (
                order.index((place.variant, place.benchmark)),
                signals_read(place.setting),
            ),
        )

    def values(self, place: Place, measure: Measure) -> dict[int, float]:
        """A figure by seed, without the seeds in which it isn't known."""
        values = {}
        for seed in self.seeds:
            figures = self._evaluated[place.variant, seed].figures
            found = [
                figure.value
                for key, figure in figures.items()
                if (key.metric, key.benchmark, key.setting)
                == (measure.metric, place.benchmark, place.setting)
                and measure.judge in (None, key.judge)
            ]
            if found and found[0] is not None:
                values[seed] = found[0]
        return values

    def difference(self, place: Place, other: Place, measure: Measure) -> Estimate:
        """Accuracy of one place minus that of another, over the same cases of all seeds together.

        The interval comes from a bootstrap over users, who are other ones with each seed. It says
        how far the difference holds for other users, not for other trainings: how those vary is
        seen in the figures of the seeds. Cases are the same when their target pairs are.
        """
        seeds = [self._pairs(place, other, measure, seed) for seed in self.seeds]
        pairs = pd.concat(seeds, ignore_index=True)
        if pairs.empty:
            return Estimate(None, None, None)
        return _bootstrap(tuple(pairs.cluster), self._seed).difference(
            list(pairs.correct_x), list(pairs.correct_y)
        )

    def _pairs(self, place: Place, other: Place, measure: Measure, seed: int) -> pd.DataFrame:
        sides = [
            self._answered(place, measure, seed),
            self._answered(other, measure, seed)[["case_id", "target", "correct"]],
        ]
        pairs = sides[0].merge(sides[1], on=["case_id", "target"])
        return pairs.assign(cluster=f"{seed}/" + pairs.cluster.astype(str))

    def _answered(self, place: Place, measure: Measure, seed: int) -> pd.DataFrame:
        rows = self._evaluated[place.variant, seed].verdicts
        chosen = rows[
            (rows.benchmark == place.benchmark)
            & (rows.setting == place.setting)
            & (rows.metric == measure.metric)
            & (rows.judge == measure.judge)
        ]
        return chosen.dropna(subset=["correct"])[["case_id", "target", "cluster", "correct"]]


@lru_cache(maxsize=4)
def _bootstrap(clusters: tuple[str, ...], seed: int) -> ClusteredBootstrap:
    # The same cases are compared again and again, and drawing them is what takes the time.
    return ClusteredBootstrap(clusters, seed=seed)


def _measures(keys: Sequence[FigureKey], metrics: Sequence[str]) -> list[Measure]:
    """Columns in the order of the metrics; what doesn't depend on judges is shown once."""
    found = []
    for metric in metrics:
        judges = dict.fromkeys(key.judge for key in keys if key.metric == metric)
        names = list(judges) if metric in BY_JUDGE else [None]
        found += [Measure(metric, judge) for judge in names] if judges else []
    return found


def signals_read(setting: str) -> int:
    """How many signals of a user have been read in a setting: 8 in base8 and in streaming4+4."""
    return sum(map(int, re.findall(r"\d+", setting)))


def figure_table(figures: StudyFigures, style: TableStyle) -> str:
    """One row per place: mean of the seeds, with the lowest and the highest."""
    rows = [
        [
            place.variant,
            _where(figures, place),
            *(_over_seeds(figures, place, measure) for measure in figures.measures),
        ]
        for place in figures.places
    ]
    headers = ["variant", "where", *(measure.title for measure in figures.measures)]
    return render_table(rows, headers, style)


def gain_table(figures: StudyFigures, style: TableStyle) -> str | None:
    """One row per place: paired differences to the first variant, in points with 95 % interval.

    A place is compared with that of the first variant on the same benchmark, after equally many
    signals where the first variant was scored after several numbers of them. `None` where there is
    nothing to compare.
    """
    judged = [measure for measure in figures.measures if measure.metric in BY_JUDGE]
    first = figures.places[0].variant
    rows = []
    for place in figures.places:
        other = _counterpart(figures, place, first)
        if place.variant != first and other is not None:
            differences = [figures.difference(place, other, measure) for measure in judged]
            cells = [_points(difference) for difference in differences]
            rows.append([f"{place.variant} minus {first}", _where(figures, place), *cells])
    if not rows or not judged:
        return None
    return render_table(rows, ["difference", "where", *(each.title for each in judged)], style)


def _counterpart(figures: StudyFigures, place: Place, variant: str) -> Place | None:
    same = [
        each
        for each in figures.places
        if each.variant == variant and each.benchmark == place.benchmark
    ]
    if len(same) > 1:
        read = signals_read(place.setting)
        same = [each for each in same if signals_read(each.setting) == read]
    return same[0] if same else None


def ordering_lines(figures: StudyFigures, orderings: Sequence[Sequence[str]]) -> list[str]:
    """What came of each expected step up: it holds, doesn't hold, or is undecided.

    It holds where the interval of the paired difference lies above 0, and doesn't where it lies
    below.

    Args:
        figures: of the study.
        orderings: variants, or `variant/setting`, from the worst to the best.
    """
    judged = [measure for measure in figures.measures if measure.metric in BY_JUDGE]
    steps = dict.fromkeys(step for names in orderings for step in pairwise(names))
    benchmarks = dict.fromkeys(place.benchmark for place in figures.places)
    lines = []
    for worse, better in steps:
        for benchmark in benchmarks:
            high, low = (_named(figures, name, benchmark) for name in (better, worse))
            answers = [
                f"{_answer(figures.difference(high, low, measure))} by {measure.title}"
                for measure in judged
            ]
            where = f", {benchmark}" if len(benchmarks) > 1 else ""
            lines.append(f"- {worse} < {better}{where}: {'; '.join(answers)}.")
    return lines


def _answer(difference: Estimate) -> str:
    if difference.low is None or difference.high is None:
        return "undecided (no cases in common)"
    word = "undecided"
    if difference.low > 0:
        word = "**holds**"
    elif difference.high < 0:
        word = "**doesn't hold**"
    return f"{word}: {_points(difference)}"


def ratio_lines(figures: StudyFigures, ratios: Sequence[tuple[str, str, str]]) -> list[str]:
    """Each ratio of two figures, over the seeds.

    Args:
        figures: of the study.
        ratios: a metric, and the places, `variant/setting`, of the figure above and below.
    """
    lines = []
    for metric, above, below in ratios:
        measure = next(each for each in figures.measures if each.metric == metric)
        for benchmark in dict.fromkeys(place.benchmark for place in figures.places):
            tops, bottoms = (
                figures.values(_named(figures, name, benchmark), measure) for name in (above, below)
            )
            found = [
                tops[seed] / bottoms[seed]
                for seed in figures.seeds
                if seed in tops and bottoms.get(seed)
            ]
            lines.append(
                f"- {measure.title}, {above} over {below}, {benchmark}: {_range(found, '.2f')}"
            )
    return lines


def _named(figures: StudyFigures, name: str, benchmark: str) -> Place:
    variant, _, setting = name.partition("/")
    for place in figures.places:
        found = (place.variant, place.benchmark) == (variant, benchmark)
        if found and setting in ("", place.setting):
            return place
    raise UserError(f"study: {name!r} found, but its evaluation has no such figures on {benchmark}")


def study_text(
    figures: StudyFigures,
    question: str,
    orderings: Sequence[Sequence[str]],
    ratios: Sequence[tuple[str, str, str]],
    style: TableStyle,
) -> str:
    """All that a study says: the question, the tables, and the answers in words."""
    seeds = len(figures.seeds)
    spread = f"Mean of {seeds} seeds (lowest–highest)" if seeds > 1 else "One seed"
    notes = [f"{spread}; shares in %."]
    if figures.missing:
        notes.append(f"The evaluations don't have: {', '.join(figures.missing)}.")
    parts = [question, figure_table(figures, style)]
    gains = gain_table(figures, style)
    if gains is not None:
        parts.append(gains)
        notes.append(
            "Differences: over the same cases of all seeds together, in percentage points with "
            "95 % interval from a bootstrap over users. How much trainings vary is seen in the "
            "range of the seeds."
        )
    parts.append(" ".join(notes))
    answers = (ordering_lines(figures, orderings), ratio_lines(figures, ratios))
    parts += ["\n".join(lines) for lines in answers if lines]
    text = "\n\n".join(parts)
    return text.replace("**", "") if style == "plain" else text


def study_summary(figures: StudyFigures) -> dict[str, float | None]:
    """Mean, lowest and highest of every figure: `metric/benchmark/judge/variant/setting`.

    A figure that no judge has a part in stands under `any`.
    """
    summary: dict[str, float | None] = {}
    for measure in figures.measures:
        for place in figures.places:
            values = list(figures.values(place, measure).values())
            judge = measure.judge or "any"
            key = f"{measure.metric}/{place.benchmark}/{judge}/{place.variant}/{place.setting}"
            summary[key] = fmean(values) if values else None
            summary[f"{key}/lowest"] = min(values, default=None)
            summary[f"{key}/highest"] = max(values, default=None)
    return summary


def study_chart(
    figures: StudyFigures,
    curve: Literal["variants", "benchmarks", "settings"] | None,
    name: str,
    at: Mapping[str, float | None],
    path: Path,
) -> None:
    """Draw every measure in a panel of its own, with a dot for each seed.

    Args:
        figures: of the study.
        curve: what curves go over; `None`: bars.
        name: of the study, which stands below a curve over variants.
        at: where each variant stands on such a curve.
        path: the PNG file to write.
    """
    if curve is None:
        bars = {
            _panel(measure): {
                f"{place.variant}  ({_where(figures, place)})": _drawn(figures, place, measure)
                for place in figures.places
            }
            for measure in figures.measures
        }
        bar_panels(bars, path)
        return
    curves: dict[str, dict[str, dict[float, list[float]]]] = {}
    for measure in figures.measures:
        lines = curves.setdefault(_panel(measure), {})
        for place in figures.places:
            x = {
                "variants": at[place.variant],
                "benchmarks": _number_of(place.benchmark),
                "settings": float(signals_read(place.setting)),
            }[curve]
            assert x is not None, f"{place} has no place on a curve over {curve}"
            line = place.benchmark if curve == "variants" else place.variant
            lines.setdefault(line, {})[x] = _drawn(figures, place, measure)
    stem = re.sub(r"[\d.]+$", "", figures.places[0].benchmark)
    across = {"variants": name, "benchmarks": f"k in {stem}k", "settings": "signals read"}[curve]
    curve_panels(curves, across, path)


def _panel(measure: Measure) -> str:
    return f"{measure.title} (%)" if measure.metric in SHARES else measure.title


def _drawn(figures: StudyFigures, place: Place, measure: Measure) -> list[float]:
    factor = 100 if measure.metric in SHARES else 1
    return [factor * value for value in figures.values(place, measure).values()]


def _number_of(benchmark: str) -> float | None:
    match = re.search(r"\d+(\.\d+)?$", benchmark)
    return float(match[0]) if match else None


def _where(figures: StudyFigures, place: Place) -> str:
    several = len({each.benchmark for each in figures.places}) > 1
    return f"{place.benchmark} {place.setting}" if several else place.setting


def _over_seeds(figures: StudyFigures, place: Place, measure: Measure) -> str:
    values = list(figures.values(place, measure).values())
    share = measure.metric in SHARES
    text = _range([100 * value for value in values] if share else values, ".1f" if share else ".3g")
    lacking = 0 < len(values) < len(figures.seeds)
    return f"{text}, {len(values)} of {len(figures.seeds)} seeds" if lacking else text


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return _ABSENT
    mean = f"{fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}}–{max(values):{form}})"


def _points(difference: Estimate) -> str:
    if difference.value is None:
        return _ABSENT
    value = f"{100 * difference.value:+z.1f}"
    if difference.low is None or difference.high is None:
        return value
    return f"{value} ({100 * difference.low:+z.1f} to {100 * difference.high:+z.1f})"

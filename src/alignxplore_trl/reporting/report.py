"""The report of an evaluation: one page that needs nothing else, and the same as Markdown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.reporting import report_sections
from alignxplore_trl.reporting.evaluations import (
    Evaluations,
    FinishedEvaluation,
    benchmarks_of,
    figures_of,
    read_methods,
)
from alignxplore_trl.reporting.group_section import groups
from alignxplore_trl.reporting.pages import Section, render_template
from alignxplore_trl.reporting.responsible_use import responsible_use
from alignxplore_trl.reporting.sampled_cases import SampledCase, sample_cases


@dataclass(frozen=True)
class Report:
    """What stands in a report.

    Attributes:
        title: of the page.
        benchmark: the one whose cases, words and costs are shown.
        sections: those of figures, in their order, up to the word clouds.
        methods: those whose inferences stand beside the cases.
        cases: drawn by hash.
        closing: what was run, and the note on responsible use.
    """

    title: str
    benchmark: str
    sections: Sequence[Section]
    methods: Sequence[MethodSetting]
    cases: Sequence[SampledCase]
    closing: Sequence[Section]

    @property
    def missing(self) -> list[Section]:
        """Sections that there was nothing to show in."""
        return [section for section in self.sections if section.is_missing]


def make_report(
    evaluations: Sequence[FinishedEvaluation],
    runs: Mapping[str, Mapping[str, Path]],
    *,
    charts: Path,
    reference: str,
    methods: Sequence[str] | None,
    cases: int,
    bins: int,
    seed: int,
) -> Report:
    """Read finished evaluations and draw their charts.

    Args:
        evaluations: one, or one per seed; cases are shown of the first.
        runs: the folder of each training by policy, and by the label of its evaluation.
        charts: the folder for PNG files.
        reference: the method that marks of significance compare with.
        methods: `method/setting` of those whose cases are shown; `None`: the best of each stage.
        cases: how many of them are shown.
        bins: of the calibration of judges.
        seed: of the draw of cases.

    Raises:
        UserError: one of `methods` wasn't evaluated.
    """
    figures = figures_of(evaluations)
    benchmark = benchmarks_of(figures)[0]
    shown = read_methods(methods, figures, benchmark)
    found = Evaluations(evaluations, shown, charts)
    sections = [
        report_sections.results(found, reference),
        report_sections.comparisons(found),
        report_sections.training(found, runs),
        report_sections.efficiency(found),
        report_sections.drift(found),
        report_sections.calibration(found, bins),
        groups(found),
        report_sections.win_rates(found),
        report_sections.words(found),
    ]
    return Report(
        title=f"Evaluation: {', '.join(each.folder.name for each in evaluations)}",
        benchmark=benchmark,
        sections=sections,
        methods=shown,
        cases=sample_cases(evaluations[0], benchmark, shown, cases, seed),
        closing=[report_sections.facts(found), responsible_use()],
    )


def render_html(report: Report) -> str:
    """One HTML page: its style, its pictures and its few lines of script stand in it.

    Its policy forbids the browser to load anything, and to run any other script than this one.
    """
    script = render_template("report.js.jinja")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return render_template("report.html.jinja", report=report, script=script, digest=digest)


def render_markdown(report: Report, charts: str) -> str:
    """The same as Markdown without the cases, which want a page.

    Args:
        report: what to render.
        charts: the folder of the PNG files, as seen from the file.
    """
    return render_template("report.md.jinja", report=report, charts=charts)

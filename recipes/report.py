"""The report of an evaluation: one page that needs nothing else, and the same as Markdown."""

import sys
from pathlib import Path
from typing import Any

from alignxplore_trl.launch.config import ReportConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folders
from alignxplore_trl.launch.runs import stage_of
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say


def main(config: ReportConfig, folder: RunFolder) -> None:
    """Read the evaluations, and write what they say."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.reporting.evaluations import open_evaluations
    from alignxplore_trl.reporting.report import make_report, render_html, render_markdown

    evaluations = open_evaluations(upstream_folders(config, "evaluate"))
    runs: dict[str, dict[str, Path]] = {}
    for each in evaluations:
        for policy, training in trainings(each.config).items():
            path = Path(config.paths.outputs) / stage_of(policy) / training
            runs.setdefault(policy, {})[each.label] = path
    charts = folder.path / "charts"
    report = make_report(
        evaluations,
        runs,
        charts=charts,
        reference=config.page.reference,
        methods=config.page.methods,
        cases=config.page.cases,
        bins=config.page.bins,
        seed=config.seed,
    )
    page = folder.path / "report.html"
    write_text_atomic(page, render_html(report))
    write_text_atomic(folder.path / "report.md", render_markdown(report, charts.name))
    for section in report.missing:
        say(f"report: nothing to show in the section {section.title!r}; the page says why")
    say(f"report: wrote {page} and report.md beside it")
    folder.finish(
        {
            "evaluations": len(evaluations),
            "cases": len(report.cases),
            "sections": len(report.sections),
            "sections_missing": len(report.missing),
        }
    )


def trainings(config: dict[str, Any]) -> dict[str, str]:
    """The runs of the policies that an evaluation scored, by policy."""
    upstream = config.get("upstream", {}).items()
    return {key: name for key, name in upstream if name and stage_of(key) in ("cold_start", "rl")}


if __name__ == "__main__":
    run_recipe(ReportConfig, main, sys.argv[1:])

"""The report of an evaluation: one page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("report")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Write report.html about this run's evaluation and the trainings it scored."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.reporting.report import make_report
    from alignxplore_trl.run.folder import write_text
    from alignxplore_trl.run.progress import say

    evaluation = stage.read("evaluation")
    trained = {name: stage.find(name) for name in ("cold_start", "rl")}
    logs = {name: path / "metrics.jsonl" for name, path in trained.items() if path}
    page = stage.folder.path / "report.html"
    count = experiment.report["cases"]
    write_text(page, make_report(experiment.run, evaluation, logs, count))
    say(f"report: {page}")
    return {"cases": count, "trainings": len(logs)}


if __name__ == "__main__":
    main()

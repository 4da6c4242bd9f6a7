"""What a judge is worth: its answers with the true description and with none."""

import sys

from alignxplore_trl.launch.config import JudgeReportConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say


def main(config: JudgeReportConfig, folder: RunFolder) -> None:
    """Ask the judge of training, and write and print what came of it."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.evaluation.judge_quality import judge_quality
    from alignxplore_trl.launch.models import load_judge
    from alignxplore_trl.reporting.charts import judge_chart
    from alignxplore_trl.reporting.tables import judge_table
    from alignxplore_trl.text.rendering import PromptSet

    asked, name = config.report, config.model.judge_name
    cases = read_split(upstream_folder(config, "prepare"), asked.split)[: asked.cases]
    judge = load_judge(
        config.judge.model, PromptSet(config.prompts.folder), config.judge, config.seed
    )
    described = [case for case in cases if case.description is not None]
    qualities = {}
    for method, known in (("golden", described), ("null", cases)):
        if known:
            say(f"{method}: {len(known)} cases, in both orders")
            told = {
                case.case_id: case.description if method == "golden" else None for case in known
            }
            qualities[method] = judge_quality(judge, known, told, bins=asked.bins)
    judge_chart(qualities, name, folder.path / "judge.png")
    table = judge_table(qualities, name, without_description=len(cases) - len(described))
    write_text_atomic(folder.table, f"{table}\n")
    print(folder.table.read_text())
    folder.finish(
        {
            f"{metric}/{config.data.name}/{name}/{method}": value
            for method, quality in qualities.items()
            for metric, value in quality.figures().items()
        }
    )


if __name__ == "__main__":
    run_recipe(JudgeReportConfig, main, sys.argv[1:])

"""A study: several trainings over several seeds, scored and compared; resumable."""

import shutil
import sys
from pathlib import Path

from alignxplore_trl.launch.config import StudyConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.make import make
from alignxplore_trl.launch.studies import commands_of, evaluation_command
from alignxplore_trl.run.folder import RunFolder, write_text_atomic


def main(config: StudyConfig, folder: RunFolder) -> None:
    """Run what isn't finished, and put tables, answers and a chart on the page of studies."""
    from alignxplore_trl.reporting.documents import check_markers, fill_in
    from alignxplore_trl.reporting.studies import (
        StudyFigures,
        read_evaluated_variant,
        study_chart,
        study_summary,
        study_text,
    )

    study = config.study
    page = None if config.document is None else Path(config.document)
    if page is not None:
        check_markers(page, f"study {study.name}")
    for seed in config.seeds:
        for _, command in commands_of(config, seed):
            make(command.make_arguments)

    evaluations = Path(config.paths.outputs) / "evaluate"
    figures = StudyFigures(
        [
            read_evaluated_variant(
                evaluations / evaluation_command(config, label, seed).run_name,
                label,
                seed,
                variant.method,
            )
            for label, variant in study.variants.items()
            for seed in config.seeds
        ],
        study.figures,
        # With a curve over settings, those on the way to the last round are part of it.
        None
        if study.curve == "settings"
        else {label: variant.settings for label, variant in study.variants.items()},
        config.seed,
    )
    ratios = [(ratio.figure, ratio.of, ratio.to) for ratio in study.ratios]
    image = folder.path / "study.png"
    at = {label: variant.at for label, variant in study.variants.items()}
    study_chart(figures, study.curve, study.name, at, image)
    write_text_atomic(
        folder.table, study_text(figures, study.question, study.orderings, ratios, "plain") + "\n"
    )
    print(folder.table.read_text())
    if page is not None:
        published = page.parent / page.stem / f"{study.name}.png"
        published.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, published)
        text = study_text(figures, study.question, study.orderings, ratios, "markdown")
        link = f"![{study.question}]({page.stem}/{study.name}.png)"
        fill_in(page, f"study {study.name}", f"{text}\n\n{link}")
    folder.finish({"seeds": len(config.seeds), **study_summary(figures)})


if __name__ == "__main__":
    run_recipe(StudyConfig, main, sys.argv[1:])

"""A study: several trainings over several seeds, scored and compared; resumable."""

import shutil
import sys
from pathlib import Path

from alignxplore_trl.launch.config import StudyConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.make import make
from alignxplore_trl.launch.studies import commands_of, evaluation_command
from alignxplore_trl.run.folder import RunFolder, write_text_atomic

DOCUMENT = Path(__file__).parents[1] / "docs" / "studies.md"


def main(config: StudyConfig, folder: RunFolder) -> None:
    """Run what isn't finished, and put tables, chart and answers into docs/studies.md."""
    from alignxplore_trl.reporting.documents import check_markers, fill_in
    from alignxplore_trl.reporting.studies import (
        StudyFigures,
        read_evaluated_variant,
        study_chart,
        study_summary,
        study_text,
    )

    study = config.study
    place = f"study {study.name}"
    check_markers(DOCUMENT, place)
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
    )
    ratios = [(ratio.figure, ratio.of, ratio.to) for ratio in study.ratios]
    image = folder.path / "study.png"
    at = {label: variant.at for label, variant in study.variants.items()}
    study_chart(figures, study.curve, study.name, at, image)
    told = study_text(figures, study.question, study.orderings, ratios, "plain")
    write_text_atomic(folder.table, told + "\n")
    print(told)
    published = DOCUMENT.parent / "studies" / f"{study.name}.png"
    published.parent.mkdir(exist_ok=True)
    shutil.copyfile(image, published)
    text = study_text(figures, study.question, study.orderings, ratios, "markdown")
    fill_in(DOCUMENT, place, f"{text}\n\n![{study.question}](studies/{study.name}.png)")
    folder.finish({"seeds": len(config.seeds), **study_summary(figures)})


if __name__ == "__main__":
    run_recipe(StudyConfig, main, sys.argv[1:])

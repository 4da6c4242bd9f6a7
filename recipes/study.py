"""A study: the variants of conf/study/<x>.yaml over several seeds, scored and compared."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.config import CONF, Experiment, Study
from alignxplore_trl.evaluation.statistics import compare_variants
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder, write_text
from alignxplore_trl.run.make import make, told

# Figures that aren't shares.
AS_THEY_ARE = ("tokens", "prompt_tokens", "seconds", "dropped_signals", "shortened_texts")
# Overrides that are the study's own; its stages aren't told them.
_OWN = ("study", "run", "seed", "make", "upstream")


@recipe("study")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Run what isn't finished, and write the figures of all variants with their differences."""
    study = experiment.study
    if study is None:
        known = ", ".join(sorted(path.stem for path in (CONF / "study").glob("*.yaml")))
        raise UserError(f"study: none found, expected NAME=<one of {known}>")
    name, rows = HydraConfig.get().runtime.choices["study"], []
    first = next(iter(study.variants))
    for seed in study.seeds:
        for variant, own in study.variants.items():
            run = f"{experiment.run}/seed{seed}/{variant}"
            own = [*told(*_OWN), f"seed={seed}", *study.overrides, *own, f'run="{run}"']
            if variant != first:
                own.append(f'upstream="{experiment.run}/seed{seed}/{first}"')
            make(study.targets, own, experiment.make)
            figures = StageFolder(Path(experiment.paths["outputs"], run, "evaluation")).summary()
            rows += [{"seed": seed, **row} for row in figures_of(study, variant, figures)]
    values = pd.DataFrame(rows)
    pairs = [(first, second) for first, second in study.pairs]
    text = f"# {name}\n\n{study.question}\n\nMean ± half the range; shares in percent; seeds "
    text += f"{study.seeds}.\n\n{tables(values, compare_variants(values, pairs))}\n"
    for folder in (stage.folder.path, Path(experiment.paths["results"])):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.md", text)
    sys.stdout.write(text)
    means = values.groupby(["figure", "variant"]).value.mean()
    return {"/".join(key): value for key, value in means.to_dict().items()}  # type: ignore[arg-type]


def figures_of(study: Study, variant: str, figures: Mapping[str, Any]) -> list[dict[str, object]]:
    """The figures of an evaluation that a study shows, without the ends of their intervals."""
    keys = {key: key.split("/") for key in figures if key.count("/") == 4}
    found = {}
    for key, (metric, benchmark, judge, method, setting) in keys.items():
        if metric in study.figures and method in study.methods and figures[key] is not None:
            # What no judge has to do with stands under each of them.
            about = f"{benchmark}, {judge}" if metric.startswith(("acc", "win")) else benchmark
            value = figures[key] * (1 if metric in AS_THEY_ARE else 100)
            found[f"{metric} ({about})", f"{variant}/{method}/{setting}"] = value
    return [{"figure": f, "variant": place, "value": own} for (f, place), own in found.items()]


def tables(values: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Markdown: a row for each variant and method, and one for each difference."""
    over_seeds = values.groupby(["variant", "figure"], sort=False).value
    cells = over_seeds.agg(lambda of: f"{of.mean():.3g} ± {(of.max() - of.min()) / 2:.2g}")
    whole = markdown(cells.unstack().fillna("").reset_index())
    if not len(differences):
        return whole
    shown = differences.dropna(subset=["value"]).drop(columns=["p", "n"])
    return f"{whole}\n\n{markdown(shown.map(lambda x: f'{x:.3g}' if isinstance(x, float) else x))}"


def markdown(frame: pd.DataFrame) -> str:
    """A table of texts."""
    rows: list[Any] = [list(frame), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


if __name__ == "__main__":
    main()

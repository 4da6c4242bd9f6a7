"""A study: the variants of conf/study/<x>.yaml over several seeds, scored and compared."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.config import CONF, Experiment, Study
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_text
from alignxplore_trl.run.make import MakeError, make

# Overrides that are the study's own; its stages aren't told them.
_OWN = ("study", "run", "seed", "make", "upstream")


@recipe("study")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Run what isn't finished, and write the figures of all variants with their differences."""
    study = experiment.study
    if study is None:
        known = ", ".join(sorted(path.stem for path in (CONF / "study").glob("*.yaml")))
        raise UserError(f"study: none found, expected NAME=<one of {known}>")
    import pandas as pd

    from alignxplore_trl.evaluation.statistics import compare_variants

    words = HydraConfig.get().overrides
    told = [word for word in words.hydra if word.startswith("hydra.searchpath")]
    told += [word for word in words.task if re.split(r"[.=]", word.lstrip("+"))[0] not in _OWN]
    name, rows = HydraConfig.get().runtime.choices["study"], []
    first = next(iter(study.variants))
    for seed in study.seeds:
        for variant, own in study.variants.items():
            run = f"{experiment.run}/seed{seed}/{variant}"
            own = [*told, f"seed={seed}", *study.overrides, *own, f'run="{run}"']
            if variant != first:
                own.append(f'upstream="{experiment.run}/seed{seed}/{first}"')
            try:
                make(study.targets, own, experiment.make)
            except MakeError as error:
                raise UserError(
                    f"study: {run}: {error}; the same command goes on from here"
                ) from error
            evaluation = Path(experiment.paths.outputs) / run / "evaluation" / "summary.json"
            figures = json.loads(evaluation.read_text("utf-8"))
            rows += [{"seed": seed, **row} for row in figures_of(study, variant, figures)]
    values = pd.DataFrame(rows)
    pairs = [(first, second) for first, second in study.pairs]
    text = tables(name, study, values, compare_variants(values, pairs))
    for folder in (stage.folder.path, Path(experiment.paths.results)):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.md", text)
    sys.stdout.write(text)
    return {
        f"{figure}/{variant}": of.value.mean()
        for figure, own in values.groupby("figure")
        for variant, of in own.groupby("variant")
    }


def figures_of(study: Study, variant: str, figures: Mapping[str, Any]) -> list[dict[str, object]]:
    """The figures of an evaluation that a study shows, without the ends of their intervals."""
    keys = {key: key.split("/") for key in figures if key.count("/") == 4}
    return [
        {
            "figure": f"{metric} ({benchmark}, {judge})",
            "variant": f"{variant}/{method}/{setting}",
            "value": figures[key],
        }
        for key, (metric, benchmark, judge, method, setting) in keys.items()
        if metric in study.figures and method in study.methods and figures[key] is not None
    ]


def tables(name: str, study: Study, values: Any, differences: Any) -> str:
    """Markdown: mean and half the range over the seeds, and the differences of the pairs."""
    lines = [f"# {name}", "", study.question, "", f"Seeds: {study.seeds}.", ""]
    for figure, own in values.groupby("figure", sort=False):
        lines += [f"| {figure} | mean ± half the range |", "|---|---:|"]
        for variant, of in own.groupby("variant", sort=False):
            half = (of.value.max() - of.value.min()) / 2
            lines.append(
                f"| {variant} | {shown(figure, of.value.mean())} ± {shown(figure, half)} |"
            )
        lines.append("")
    if len(differences):
        lines += ["| difference | of | 95 % interval | holds |", "|---|---:|---|---|"]
        for row in differences.dropna(subset=["value"]).to_dict("records"):
            figure, holds = row["figure"], "yes" if row["holds"] else "no"
            value, low, high = (shown(figure, row[name]) for name in ("value", "low", "high"))
            of = f"{figure}: {row['first']} - {row['second']}"
            lines.append(f"| {of} | {value} | {low} to {high} | {holds} |")
    return "\n".join(lines) + "\n"


def shown(figure: str, value: float | None) -> str:
    """Shares as percentages, tokens and seconds as they are, `?` for what isn't known."""
    if value is None or value != value:
        return "?"
    plain = figure.startswith(("seconds", "tokens", "prompt_tokens", "dropped_signals"))
    return f"{value:.3g}" if plain else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()

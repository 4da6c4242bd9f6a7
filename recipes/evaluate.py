"""What descriptions are worth: every method on every benchmark, under several judges."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError

Specs = dict[str, dict[str, Any]]


@recipe("evaluation")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Describe users by each method, put the descriptions before each judge, and count.

    What was asked for before, and is in the folder, isn't made again.
    """
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.evaluation import figures
    from alignxplore_trl.evaluation.benchmarks import read_benchmarks, read_settings
    from alignxplore_trl.evaluation.kept import differences, keep_cases
    from alignxplore_trl.evaluation.methods import describe_all, descriptions_table
    from alignxplore_trl.evaluation.scoring import generate_all, judge_all, verdicts_table
    from alignxplore_trl.evaluation.win_rate import WinRates

    asked, folder, prompts = experiment.evaluation, stage.folder.path, experiment.prompts.folder
    choices = HydraConfig.get().runtime.choices
    folders = {choices["data"]: stage.read("data")}
    folders |= {name: Path(path) for name, path in asked["prepared"].items()}
    names = asked["benchmarks"] or [choices["data"]]
    benchmarks = read_benchmarks(names, folders, asked["cases"], experiment.seed)
    settings = read_settings(asked["settings"] or [_own_setting(experiment)], benchmarks)

    methods, generators, win_rate = _methods(asked, stage), asked["generators"], asked["win_rate"]
    judges = {"judge": experiment.judge, **experiment.test_judges}
    made_with = folder / "made_with.json"
    if differences(made_with, {"judge": experiment.judge}):
        # Its verdicts stand beside those of the judge that was asked before.
        judges = {f"judge_{choices['judge']}": judges.pop("judge"), **judges}
    data = {name: {"folder": str(path)} for name, path in folders.items()}
    named = {**methods, **judges, **generators, **data, "win_rate.writer": win_rate["writer"]}
    _refuse(differences(made_with, named))
    keep_cases(folder / "cases", benchmarks)

    built = {name: stage.build(spec) for name, spec in methods.items()}
    described = descriptions_table(folder)
    left_out = describe_all(built, benchmarks, settings, described)
    rows = described.rows[described.rows.method.isin(methods)]
    verdicts, reasons = verdicts_table(folder), {}
    for name, spec in judges.items():
        judge = stage.build(spec)
        judge_all(name, judge, rows, benchmarks, verdicts)
        reasons |= _freed(name, judge)
    for name, spec in generators.items():
        generator = stage.build(spec)
        generate_all(name, generator, prompts, rows, benchmarks, verdicts)
        reasons |= _freed(name, generator)
    rates = WinRates(folder)
    if win_rate["pairs"]:
        name, spec = list(judges.items())[-1]
        writer, judge, count = stage.build(win_rate["writer"]), stage.build(spec), win_rate["cases"]
        pairs = figures.expand_pairs(win_rate["pairs"], rows[~rows.decided])
        rates.write(writer, prompts, pairs, rows, benchmarks, count, experiment.seed)
        writer.close()
        rates.compare(name, judge, pairs, benchmarks)
        reasons |= _freed(name, judge)

    found = figures.make_figures(folder, asked["differences"])
    sys.stdout.write(figures.table_of(found) + "\n")
    notes = {f"left_out/{name}": reason for name, reason in left_out.items()}
    return figures.summarise(found) | reasons | notes


def _own_setting(experiment: Experiment) -> str:
    setting = experiment.setting
    sizes = "+".join([str(setting.signals)] * setting.rounds)
    return f"{setting.name}{sizes}"


def _methods(asked: Mapping[str, Any], stage: Stage) -> Specs:
    """The methods by name, with the policies that were named; folders are where they are found."""
    like = next((own for own in asked["methods"].values() if "made_by" in own), {})
    named = {
        name: {**like, "model": model, "made_by": None} for name, model in asked["policies"].items()
    }
    both = {name: dict(spec) for name, spec in (asked["methods"] | named).items()}
    bad = [name for name in both if not name.replace("_", "").replace(".", "").isalnum()]
    if bad:
        raise UserError(
            f"evaluation.policies: {', '.join(bad)} found, expected names of letters, digits, '_' "
            "and '.', of which the keys of summary.json are made"
        )
    for spec in both.values():
        model = Path(str(spec.get("model")))
        own, before = model.parent, stage.upstream(model.parent.name)
        if not own.is_dir() and before is not None and own == stage.folder.path.parent / own.name:
            spec["model"] = str(before.path / model.name)
    return both


def _refuse(differing: Mapping[str, list[str]]) -> None:
    if differing:
        raise UserError(
            [
                f"{name}: {', '.join(keys)} differ from what its verdicts here were made with; give "
                "it another name, or this run (RUN=<name>)"
                for name, keys in differing.items()
            ]
        )


def _freed(name: str, model: Any) -> dict[str, int]:
    """Why a model gave no answer, by reason; its weights are given up."""
    if hasattr(model, "close"):
        model.close()
    counts = getattr(model, "counts", {})
    return {f"unanswered/{name}/{why}": count for why, count in counts.items() if count}


if __name__ == "__main__":
    main()

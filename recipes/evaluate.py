"""What descriptions are worth: every method on every benchmark, under several judges."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError


@recipe("evaluation")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Describe users by each method, put the descriptions before each judge, and count.

    What was asked for before, and is in the folder, isn't made again.
    """
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.baselines.protocol import Setting
    from alignxplore_trl.evaluation import figures, win_rate
    from alignxplore_trl.evaluation.benchmarks import read_benchmark, read_settings
    from alignxplore_trl.evaluation.kept import differences
    from alignxplore_trl.evaluation.methods import describe_all, descriptions_table
    from alignxplore_trl.evaluation.scoring import score, verdicts_table
    from alignxplore_trl.rewards import GeneratedReward, JudgedReward
    from alignxplore_trl.text.prompts import Prompts

    asked, folder, prompts = experiment.evaluation, stage.folder.path, experiment.prompts.folder
    choices = HydraConfig.get().runtime.choices
    folders = {choices["data"]: stage.read("data")}
    folders |= {name: Path(path) for name, path in asked["prepared"].items()}
    names = asked["benchmarks"] or [choices["data"]]
    seed, setting = experiment.seed, experiment.setting
    benchmarks = [read_benchmark(name, folders, asked["cases"], seed) for name in names]
    own = Setting(setting.signals, setting.rounds).name
    settings = read_settings(asked["settings"] or [own], benchmarks)

    methods, generators, rates = _methods(experiment, stage), asked["generators"], asked["win_rate"]
    judges = {"judge": experiment.judge, **experiment.test_judges}
    if differences(folder, {"judges.judge": experiment.judge}):
        # Its verdicts stand beside those of the judge that was asked before.
        judges = {f"judge_{choices['judge']}": judges.pop("judge"), **judges}
    named = {f"methods.{name}": spec for name, spec in methods.items()}
    named |= {f"judges.{name}": spec for name, spec in judges.items()}
    named |= {f"generators.{name}": spec for name, spec in generators.items()}
    named |= {f"prepared.{name}": {"folder": str(path)} for name, path in folders.items()}
    if problems := differences(folder, named | {"win_rate.writer": rates["writer"]}):
        first = f"{folder}: verdicts were made otherwise; choose another name, or another RUN"
        raise UserError([first, *problems])
    for benchmark in benchmarks:
        benchmark.keep(folder / "cases")

    described, verdicts = descriptions_table(folder), verdicts_table(folder)
    built = {name: stage.build(spec) for name, spec in methods.items()}
    left_out = describe_all(built, benchmarks, settings, described)
    rows = described.rows[described.rows.method.isin(methods)]
    notes: dict[str, object] = {f"left_out/{name}": reason for name, reason in left_out.items()}
    for name, spec in judges.items():
        with _in_memory(name, stage.build(spec), notes) as judge:
            score("acc_jud", name, JudgedReward(judge, "both", 0), rows, benchmarks, verdicts)
    for name, spec in generators.items():
        with _in_memory(name, stage.build(spec), notes) as generator:
            reward = GeneratedReward(generator, prompts)
            score("acc_gen", name, reward, rows, benchmarks, verdicts)

    pairs = figures.expand_pairs(rates["pairs"], rows[~rows.decided])
    cases = win_rate.draw_cases(benchmarks, rates["cases"])
    replies, wins = win_rate.replies_table(folder), win_rate.wins_table(folder)
    with _in_memory("replies", stage.build(rates["writer"]), notes) as writer:
        texts = Prompts(prompts)
        win_rate.write_replies(writer, texts, pairs, rows, cases, replies, seed)
    name, spec = list(judges.items())[-1]
    with _in_memory(name, stage.build(spec), notes) as judge:
        win_rate.compare_replies(name, judge, pairs, cases, replies, wins)

    found = figures.make_figures(folder, asked["differences"])
    sys.stdout.write(figures.table_of(found) + "\n")
    return figures.summarise(found) | notes


@contextmanager
def _in_memory(name: str, model: Any, notes: dict[str, object]) -> Iterator[Any]:
    """A model until its weights are given up; why it gave no answer is noted, by reason."""
    yield model
    if hasattr(model, "close"):
        model.close()
    counts = getattr(model, "counts", {})
    notes.update({f"unanswered/{name}/{why}": count for why, count in counts.items() if count})


def _methods(experiment: Experiment, stage: Stage) -> dict[str, dict[str, Any]]:
    """The methods by name, and the policies that are named; folders are where they are found."""
    asked = experiment.evaluation
    policy = {
        "_target_": "alignxplore_trl.evaluation.methods.Policy",
        "writer": asked["writer"],
        "prompts": experiment.prompts.folder,
        "max_tokens": experiment.prompts.max_tokens,
        "seed": experiment.seed,
    }
    named = {name: {**policy, "model": model} for name, model in asked["policies"].items()}
    methods = {name: dict(spec) for name, spec in (asked["methods"] | named).items()}
    for spec in methods.values():
        model = Path(str(spec.get("model")))
        before = stage.upstream(model.parent.name)
        own = model.parent == stage.folder.path.parent / model.parent.name
        if own and before is not None and not model.parent.is_dir():
            spec["model"] = str(before.path / model.name)
    return methods


if __name__ == "__main__":
    main()

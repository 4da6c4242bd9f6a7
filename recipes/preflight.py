"""PASS or FAIL of what a training needs, each FAIL with its remedy, on every process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("preflight")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Look at cards, batches, models and the judge."""
    from accelerate import PartialState

    from alignxplore_trl import preflight
    from alignxplore_trl.cases import read_cases
    from alignxplore_trl.run.errors import UserError, is_main_process
    from alignxplore_trl.training.cold_start import ColdStartConfig
    from alignxplore_trl.training.rounds import RoundsConfig

    models, failed = experiment.model, False
    tokens = {models.backbone: experiment.prompts.max_tokens + models.max_completion_tokens}

    def batches() -> str:
        stage.arguments(ColdStartConfig, "cold_start")
        arguments = stage.arguments(RoundsConfig, "rl")
        cases = read_cases(stage.read("data") / "rl.jsonl")
        return preflight.batches(arguments, len(cases), experiment.setting.rounds)

    checks: dict[str, Callable[[], str]] = {"cards": preflight.cards, "batches": batches}
    for name in (models.backbone, models.judge, models.teacher, models.test_judge):
        checks[f"model {name}"] = partial(preflight.model, name, tokens.get(name, 0))
    if is_main_process():
        checks["judge"] = lambda: preflight.labelled_questions(stage.build("judge"))
    for name, check in checks.items():
        try:
            said = check()
            if is_main_process():
                sys.stdout.write(f"PASS  {name}: {said}\n")
        except UserError as error:
            failed = True
            sys.stdout.writelines(f"FAIL  {name}: {problem}\n" for problem in error.problems)
    # A process that ends with an error takes the others along, before they have said theirs.
    PartialState().wait_for_everyone()
    if failed:
        raise SystemExit(2)
    return {}


if __name__ == "__main__":
    main()

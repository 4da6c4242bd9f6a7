"""The small models of assets/, trained from nothing in the simulated world."""

import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from alignxplore_trl.launch.config import TinyModelsConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder, write_json_atomic
from alignxplore_trl.run.progress import say


def main(config: TinyModelsConfig, folder: RunFolder) -> None:
    """Train each model that isn't there yet, measure it, and put those that ship into assets/."""
    # Imported here, so that a mistake in the command line is answered at once.
    from transformers import LlamaForCausalLM

    from alignxplore_trl.data.world import World
    from alignxplore_trl.data.world_documents import Skill
    from alignxplore_trl.evaluation.tiny_models import measure_judge, measure_policy
    from alignxplore_trl.judging.local import LocalJudge
    from alignxplore_trl.reporting.cards import tiny_model_card
    from alignxplore_trl.text.rendering import PromptSet
    from alignxplore_trl.training.tiny_models import (
        Shape,
        Stage,
        build_model,
        build_tokenizer,
        train,
    )

    prompts = PromptSet(config.prompts.folder)
    tokenizer = build_tokenizer(prompts, config.vocabulary, config.seed)
    cases = World(config.seed).cases("validation", config.validation_cases)
    for name, recipe in config.models.items():
        path = folder.path / name
        if (path / "measures.json").is_file():
            continue
        say(f"{name}: {sum(stage.steps for stage in recipe.stages)} steps")
        if recipe.start:
            model = LlamaForCausalLM.from_pretrained(folder.path / recipe.start)
        else:
            model = build_model(Shape(**asdict(recipe.shape)), tokenizer, recipe.seed)
        started = time.monotonic()
        train(
            model,
            tokenizer,
            prompts,
            [Stage(stage.steps, stage.documents) for stage in recipe.stages],
            skill=Skill(**asdict(recipe.skill)) if recipe.skill else Skill(),
            learning_rate=recipe.learning_rate,
            batch_size=config.batch_size,
            seed=recipe.seed,
            report=lambda step, accuracy: say(f"step {step}: {_in_words(accuracy)}"),
        )
        seconds = round(time.monotonic() - started)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        if recipe.kind == "judge":
            measures = measure_judge(model, tokenizer, prompts, cases)
        else:
            judge = LocalJudge.from_folder(
                folder.path / "judge", prompts, dtype="float32", max_batch_tokens=16384
            )
            measures = measure_policy(model, tokenizer, prompts, judge, cases, config.seed)
        measures |= {"training_seconds": seconds, "parameters": model.num_parameters()}
        (path / "README.md").write_text(tiny_model_card(name, asdict(recipe), measures))
        write_json_atomic(path / "measures.json", measures)
        say(f"{name}: {_in_words(measures)}")

    shipped = [name for name, recipe in config.models.items() if recipe.ships]
    for name in shipped:
        shutil.copytree(
            folder.path / name,
            Path(config.paths.assets) / name,
            ignore=shutil.ignore_patterns("measures.json"),
            dirs_exist_ok=True,
        )
    folder.finish({"shipped": " ".join(shipped)})


def _in_words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {round(value, 3)}" for name, value in values.items())


if __name__ == "__main__":
    run_recipe(TinyModelsConfig, main, sys.argv[1:])

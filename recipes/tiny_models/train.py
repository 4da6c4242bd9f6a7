"""The small models of assets/, trained from nothing in the simulated world.

`make evaluate METHODS=backbone,teacher` says what the policies among them are worth.

python recipes/tiny_models/train.py [key=value of models.yaml ...]
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from documents import Skill
from omegaconf import OmegaConf
from training import build_model, build_tokenizer, train
from transformers import LlamaForCausalLM

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.judge_quality import judge_quality
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.prompts import Prompts


def main(words: list[str]) -> None:
    """Train each model that isn't there yet, measure it, and put those that ship into assets/."""
    config = OmegaConf.load(Path(__file__).with_name("models.yaml"))
    asked: Any = OmegaConf.to_container(
        OmegaConf.merge(config, OmegaConf.from_dotlist(words)), resolve=True
    )
    output, prompts = Path(asked["output"]), Prompts(asked["prompts"])
    tokenizer = build_tokenizer(prompts, asked["vocabulary"], asked["seed"])
    world = World(sizes={"validation": asked["validation_cases"]}, rounds=1, signals=4)
    cases = world.cases(Counter(), asked["seed"])["validation"]
    for name, recipe in asked["models"].items():
        folder = output / name
        if (folder / "README.md").is_file():
            continue
        say(f"{name}: {sum(stage['steps'] for stage in recipe['stages'])} steps")
        if recipe["start"]:
            model = LlamaForCausalLM.from_pretrained(output / recipe["start"])
        else:
            model = build_model(recipe["shape"], tokenizer, recipe["seed"])
        began = time.monotonic()
        train(
            model,
            tokenizer,
            prompts,
            recipe["stages"],
            skill=Skill(**(recipe["skill"] or {})),
            learning_rate=recipe["learning_rate"],
            batch_size=asked["batch_size"],
            seed=recipe["seed"],
        )
        seconds = round(time.monotonic() - began)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        measures: dict[str, float] = {"seconds": seconds, "parameters": model.num_parameters()}
        if recipe["kind"] == "judge":
            judge = LocalJudge(
                model=str(folder), prompts=asked["prompts"], dtype="float32", chat=False
            )
            found = judge_quality(judge, cases).dropna(subset=["value"]).to_dict("records")
            measures |= {f"{row['method']} {row['metric']}": row["value"] for row in found}
        say(f"{name}: {measures}")
        (folder / "README.md").write_text(card(name, recipe, measures), encoding="utf-8")
    for name, recipe in asked["models"].items():
        if recipe["ships"]:
            shutil.copytree(output / name, Path(asked["assets"]) / name, dirs_exist_ok=True)


def card(name: str, recipe: Mapping[str, Any], measures: Mapping[str, float]) -> str:
    """README.md of a model: how it was made, and what it is worth."""
    made = {key: value for key, value in recipe.items() if key not in ("purpose", "ships")}
    in_words = ", ".join(f"{name} {value:.3g}" for name, value in measures.items())
    return (
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# {name}\n\n"
        f"{recipe['purpose']}\n\nMade by `make tiny-models` on one CPU. It knows nothing but the "
        f"simulated world.\n\nOn validation users: {in_words}.\n\n"
        f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(made))}```\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

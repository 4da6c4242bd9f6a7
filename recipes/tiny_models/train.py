"""The small models of assets/, trained from nothing in the simulated world.

python recipes/tiny_models/train.py [key=value of models.yaml ...]
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from documents import Skill
from omegaconf import OmegaConf
from training import build_model, build_tokenizer, train
from transformers import LlamaForCausalLM

from alignxplore_trl.cases import Case
from alignxplore_trl.data.world import World, stated_poles
from alignxplore_trl.inference.writers import TransformersWriter
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import JudgedPair, preferences
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.completions import Inference, parse_completion
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
        judge = folder if recipe["kind"] == "judge" else output / "judge"
        asking = LocalJudge(str(judge), asked["prompts"], dtype="float32", chat=False)
        if recipe["kind"] == "judge":
            measures = {
                "acc jud golden": accuracy(asking, cases, lambda case: case.description),
                "acc jud null": accuracy(asking, cases, lambda case: None),
            }
        else:
            measures = measure_policy(str(folder), asking, prompts, cases, asked["seed"])
        measures |= {"training seconds": seconds, "parameters": model.num_parameters()}
        say(f"{name}: {in_words(measures)}")
        (folder / "README.md").write_text(card(name, recipe, measures), encoding="utf-8")
    for name, recipe in asked["models"].items():
        if recipe["ships"]:
            shutil.copytree(output / name, Path(asked["assets"]) / name, dirs_exist_ok=True)


def measure_policy(
    model: str, judge: LocalJudge, prompts: Prompts, cases: list[Case], seed: int
) -> dict[str, float]:
    """ACC_jud, well-formed share, and precision and recall of directions from four signals."""
    writer = TransformersWriter(
        model=model, dtype="float32", chat=False, temperature=0.9, top_p=0.95, top_k=10,
        max_new_tokens=96, batch_size=128,
    )  # fmt: skip
    read = [prompts.render("inference", signals=c.signals[:4], earlier=None) for c in cases]
    said: dict[str, str] = {}
    for case, (written,) in zip(cases, writer.write(read, 1, seed), strict=True):
        parsed = parse_completion(written.text) if written is not None else None
        if isinstance(parsed, Inference):
            said[case.case_id] = parsed.description
    described = [case for case in cases if case.case_id in said]
    stated = {case_id: set(stated_poles(text)) for case_id, text in said.items()}
    wanted = {case.case_id: set((case.directions or {}).values()) for case in cases}
    true = sum(len(poles & wanted[case_id]) for case_id, poles in stated.items())
    share = len(said) / len(cases)
    return {
        "acc jud": share * accuracy(judge, described, lambda case: said[case.case_id]),
        "well formed": share,
        "precision": true / max(1, sum(map(len, stated.values()))),
        "recall": true / sum(map(len, wanted.values())),
    }


def accuracy(judge: LocalJudge, cases: list[Case], says: Callable[[Case], str | None]) -> float:
    """ACC_jud over the cases that the judge answers, both orders averaged."""
    pairs = [
        JudgedPair(c.case_id, c.target.post, says(c), c.target.chosen, c.target.rejected)
        for c in cases
    ]
    answered = [p for p in preferences(judge, pairs, "both", seed=0) if p is not None]
    return sum(probability > 0.5 for probability in answered) / max(1, len(answered))


def card(name: str, recipe: Mapping[str, Any], measures: Mapping[str, float]) -> str:
    """README.md of a model: how it was made, and what it is worth."""
    made = {key: value for key, value in recipe.items() if key not in ("purpose", "ships")}
    return (
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# {name}\n\n"
        f"{recipe['purpose']}\n\nMade by `make tiny-models` on one CPU. It knows nothing but the "
        f"simulated world.\n\nOn validation users: {in_words(measures)}.\n\n"
        f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(made))}```\n"
    )


def in_words(values: Mapping[str, float]) -> str:
    """Names and numbers in one line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


if __name__ == "__main__":
    main(sys.argv[1:])

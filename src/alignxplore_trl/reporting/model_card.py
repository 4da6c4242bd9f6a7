"""The card of a trained policy: README.md beside its weights, as the Hugging Face Hub shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCardData

from alignxplore_trl.reporting import markdown

# Of metrics.jsonl; a line is noisy, so that the mean of the last ones is shown.
_METRICS = (
    "reward",
    "loss",
    "mean_token_accuracy",
    "entropy",
    "completions/well_formed",
    "completions/mean_length",
    "judge/probability_of_chosen",
)
_LAST_LINES = 10
_TRAINED_BY: Mapping[str, str] = {
    "cold_start": "supervised training on completions of a teacher that a judge verified",
    "rl": "GRPO, rewarded for descriptions that tell which of two replies the user preferred",
}
_LOADED_BY: Mapping[str, str] = {
    "merged": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("<this folder>")',
    "adapters": "from peft import AutoPeftModelForCausalLM\n"
    "from transformers import AutoTokenizer\n\n"
    'model = AutoPeftModelForCausalLM.from_pretrained("<this folder>")',
}


@dataclass(frozen=True)
class TrainedModel:
    """What a card says of a training.

    Attributes:
        name: of the run.
        recipe: cold_start or rl.
        base_model: the backbone's name on the Hub; `None` where it is a folder.
        weights: what is saved.
        facts: what the card says first, such as the data and the judge.
        trainer: the arguments of TRL's trainer.
        environment: versions, commit and command, by name.
        figures: of the whole run, such as steps and seconds.
    """

    name: str
    recipe: Literal["cold_start", "rl"]
    base_model: str | None
    weights: Literal["merged", "adapters"]
    facts: Mapping[str, str]
    trainer: Mapping[str, Any]
    environment: Mapping[str, str]
    figures: Mapping[str, float]


def model_card(model: TrainedModel, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown.

    Args:
        model: what was trained, and how.
        metrics: the lines of the run's metrics.jsonl.
    """
    hub = ModelCardData(
        base_model=model.base_model,
        library_name="transformers" if model.weights == "merged" else "peft",
        pipeline_tag="text-generation",
        tags=["trl", "alignxplore", "sft" if model.recipe == "cold_start" else "grpo"],
    )
    environment = dict(model.environment)
    command = environment.pop("command", None)
    sections = {
        "How it was trained": _rows("fact", model.facts),
        "Made by": ["Nobody wrote down the command."] if command is None else _shell(command),
        "Use": [
            *markdown.fenced(
                f"{_LOADED_BY[model.weights]}\n"
                'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
                "python",
            ),
            "",
            "generation_config.json holds the method's sampling. Prompts are those of the "
            "project's templates; a completion is reasoning, `</think>`, and the description "
            "between `<answer>` and `</answer>`.",
        ],
        "At the end of the training": _ending(metrics, model.figures),
        "Arguments of the trainer": markdown.fenced(
            yaml.safe_dump(dict(model.trainer), sort_keys=True).strip(), "yaml"
        ),
        "Versions": _rows("what", environment),
        "Intended use and limits": [
            "Letting an assistant answer more as its user likes it, for users who know of the "
            "description, agreed to it and can correct it. A description is a guess, often a wrong "
            "one, and personal data: it is not for decisions about people, and what the judge of "
            "training likes isn't what a user prefers."
        ],
    }
    lines = [
        "---",
        hub.to_yaml(),
        "---",
        "",
        f"# {markdown.cell(model.name)}",
        "",
        "A language model that reads what a user did, and says in plain words what this user "
        f"prefers. Trained by {_TRAINED_BY[model.recipe]}; the method is AlignXplore "
        "([arXiv:2505.18071](https://arxiv.org/abs/2505.18071)), the code alignxplore-trl.",
    ]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join([*lines, ""])


def _rows(header: str, values: Mapping[str, str]) -> list[str]:
    rows = [[markdown.cell(name), markdown.cell(value)] for name, value in values.items()]
    return markdown.table([header, ""], rows, words=2)


def _shell(command: str) -> list[str]:
    return [
        *markdown.fenced(command, "sh"),
        "",
        "It runs the stages before this one, too, where they aren't finished.",
    ]


def _ending(metrics: Sequence[Mapping[str, Any]], figures: Mapping[str, float]) -> list[str]:
    """Means of the last lines, and figures of the whole run."""
    rows = []
    for name in _METRICS:
        values = [line[name] for line in metrics if line.get(name) is not None][-_LAST_LINES:]
        if values:
            mean = sum(values) / len(values)
            rows.append([markdown.cell(name), f"last {len(values)}", markdown.number(mean)])
    rows += [
        [markdown.cell(name), "run", markdown.number(value)]
        for name, value in figures.items()
        if name.count("/") < 2  # Without the phases of the throughput.
    ]
    return [
        "Means of the last lines that the trainer logged, and figures of the whole run. The model "
        "hasn't been evaluated here; `make evaluate` does it.",
        "",
        *markdown.table(["what", "of", "value"], rows, words=2),
    ]

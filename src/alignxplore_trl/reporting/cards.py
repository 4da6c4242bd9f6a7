"""Cards that stand beside the weights of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PURPOSE = {
    "judge": "The training judge of the simulated world: it verifies cold-start data and rewards "
    "rollouts. It is also a generator whose log-probabilities of replies can serve R_gen.",
    "test_judge": "The test judge of the simulated world: another seed and shape than the training "
    "judge, and nothing is trained against it.",
    "backbone": "The policy before any training: it knows the world's language and the completion "
    "format, and infers badly.",
    "teacher": "The writer of cold-start candidates: it infers better than the backbone, above all "
    "when it is told which dimensions matter.",
}


def tiny_model_card(name: str, recipe: Mapping[str, Any], measures: Mapping[str, float]) -> str:
    """The card of a small model as Markdown.

    Args:
        name: of the model.
        recipe: its entry in `conf/tiny_models.yaml`.
        measures: what was measured on validation users, with seconds of training and parameters.
    """
    shape = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe["shape"].items())
    stages = [
        f"{index}. {stage['steps']} steps: "
        + ", ".join(f"{kind} {share:g}" for kind, share in stage["documents"].items())
        for index, stage in enumerate(recipe["stages"], 1)
    ]
    facts = [
        f"| {key.replace('_', ' ')} | {value:,.0f} |"
        if value > 1
        else f"| {key.replace('_', ' ')} | {value:.3f} |"
        for key, value in measures.items()
    ]
    start = f"the {recipe['start']} model of the same run" if recipe["start"] else "random weights"
    skill = recipe["skill"]
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "---",
        f"# {name}",
        "",
        _PURPOSE.get(name, "An intermediate model that others start from; it does not ship."),
        "",
        f"- Architecture: Llama, {shape}; float32; byte-level BPE, tags as ordinary tokens.",
        f"- Training: from {start}, seed {recipe['seed']}, learning rate "
        f"{recipe['learning_rate']:g}, on one CPU; documents per stage and their shares:",
        *[f"  {stage}" for stage in stages],
    ]
    if skill:
        lines.append(
            f"- Its documents find the dimension of a signal with probability {skill['finds']:g}, "
            f"read its direction right with {skill['reads']:g}, and keep to the format with "
            f"{skill['formats']:g}."
        )
    lines += [
        "- Made again by `make tiny-models`. It knows nothing but the simulated world.",
        "",
        "| measured on validation users | |",
        "|---|---|",
        *facts,
        "",
    ]
    return "\n".join(lines)

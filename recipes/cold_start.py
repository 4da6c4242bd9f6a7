"""Supervised training of the backbone on the teacher's verified completions."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError


@recipe("cold_start")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Train and save the model; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    from msgspec import json, structs
    from transformers import set_seed

    from alignxplore_trl.inference.describer import HowToAsk, Sampling
    from alignxplore_trl.reporting.model_card import write_card
    from alignxplore_trl.training.callbacks import Log, train
    from alignxplore_trl.training.cold_start import ColdStartConfig, ColdStartTrainer, fit_examples
    from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model

    set_seed(experiment.seed)
    model, folder = experiment.model, stage.folder
    # Before any weight is loaded, so that what TRL refuses is said first.
    arguments = stage.arguments(ColdStartConfig, "cold_start")
    tokenizer = policy_tokenizer(model.backbone)
    name = {"verified": "examples", "unverified": "unverified"}[arguments.examples]
    file = stage.read("synthesis") / f"{name}.jsonl"
    if not file.is_file():
        raise UserError(f"cold_start.examples: {name} found, but published ones are verified")
    rows = json.Decoder().decode_lines(file.read_bytes())
    examples, counts = fit_examples(rows, tokenizer, arguments.max_length or sys.maxsize)
    adapters = stage.build("peft") or None
    how = model.dtype, model.attn_implementation, stage.build("model.quantization")
    trainer = ColdStartTrainer(
        model=load_policy(model.backbone, *how, arguments, bool(adapters)),
        args=arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        callbacks=[Log(folder.path / "metrics.jsonl")],
        peft_config=adapters,
    )
    figures = train(trainer)
    summary = {f"examples/{name}": count for name, count in counts.items()} | figures
    sampling, prompts = Sampling(model.max_completion_tokens), experiment.prompts
    # Whole, whatever output.weights says of the policy: RL puts adapters of its own on it.
    save_model(trainer, tokenizer, folder.model, "merged", model.dtype, structs.asdict(sampling))
    if trainer.is_world_process_zero():
        asked = (prompts.folder, prompts.max_tokens, experiment.setting.signals)
        HowToAsk(*asked, sampling).save(folder.model)
        write_card(folder, summary)
    return summary


if __name__ == "__main__":
    main()

"""Supervised training of the backbone on the teacher's verified completions."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("cold_start")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Train and save the model; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    from datasets import Dataset
    from msgspec.structs import asdict
    from transformers import set_seed

    from alignxplore_trl.inference.how_to_ask import HowToAsk, Sampling
    from alignxplore_trl.reporting.model_card import write_card
    from alignxplore_trl.training.callbacks import Log, train
    from alignxplore_trl.training.cold_start import ColdStartConfig, ColdStartTrainer, fit_examples
    from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model

    set_seed(experiment.seed)
    model, folder = experiment.model, stage.folder
    bars = sys.stderr.isatty()
    arguments = stage.arguments(ColdStartConfig, "cold_start", disable_tqdm=not bars)
    tokenizer = policy_tokenizer(model.backbone)
    file = {"verified": "examples.jsonl", "unverified": "unverified.jsonl"}[arguments.examples]
    written = Dataset.from_json(str(stage.read("synthesis") / file))
    examples, counts = fit_examples(written, tokenizer, arguments.max_length)
    adapters = stage.build("peft") or None
    trainer = ColdStartTrainer(
        model=load_policy(
            model.backbone, model.dtype, model.attn_implementation, arguments, bool(adapters)
        ),
        args=arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        callbacks=[Log(folder.path / "metrics.jsonl")],
        peft_config=adapters,
    )
    figures = train(trainer)
    summary = {f"examples/{name}": count for name, count in counts.items()} | figures
    sampling = Sampling(model.max_completion_tokens)
    weights = experiment.output.weights
    save_model(trainer, tokenizer, folder.model, weights, model.dtype, asdict(sampling))
    if trainer.is_world_process_zero():
        asked = experiment.prompts
        setting = experiment.setting
        HowToAsk(asked.folder, asked.max_tokens, setting.signals, setting.rounds, sampling).save(
            folder.model
        )
        write_card(folder, summary)
    return summary


if __name__ == "__main__":
    main()

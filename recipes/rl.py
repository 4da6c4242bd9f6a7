"""GRPO from the cold-start model or the backbone, in the base or the streaming setting."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from alignxplore_trl.cases import decode_signals, read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import is_main_process
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget


@recipe("rl")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Train and save the policy; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    from datasets import Dataset
    from msgspec import json, structs
    from transformers import set_seed

    from alignxplore_trl.data.rounds import round_rows
    from alignxplore_trl.inference.describer import HowToAsk, Sampling
    from alignxplore_trl.judging.questions import ask_labelled
    from alignxplore_trl.reporting.model_card import write_card
    from alignxplore_trl.text.prompts import Prompts
    from alignxplore_trl.training.callbacks import Log, train
    from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model
    from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer

    set_seed(experiment.seed)
    model, setting, folder = experiment.model, experiment.setting, stage.folder
    # Before any weight is loaded, so that what TRL refuses is said first.
    arguments = stage.arguments(RoundsConfig, "rl")
    from_backbone = arguments.start == "backbone"
    start = model.backbone if from_backbone else str(stage.read("cold_start") / "model")
    tokenizer, asked = policy_tokenizer(start), experiment.prompts
    budget = PromptBudget(Prompts(asked.folder), tokenizer, asked.max_tokens)

    def prompt_with(row: Mapping[str, Any], earlier: str) -> FittedPrompt:
        return budget.fit("inference", decode_signals(row["signals"]), earlier)

    data = stage.read("data")
    if (published := data / "rounds.jsonl").is_file():
        from alignxplore_trl.data import release

        found = json.Decoder().decode_lines(published.read_bytes())
        rows = release.published_rows(found, budget)
        with_slot = partial(release.prompt_with, budget=budget)
    else:
        rows = round_rows(read_cases(data / "rl.jsonl"), setting.signals, setting.rounds, budget)
        with_slot = None
    budget.warn_of_losses(rows.counts.get("prompts_with_dropped_signals", 0), len(rows.rows))
    reward, adapters = stage.build("reward"), stage.build("peft") or None
    dataset = Dataset.from_list(rows.rows)
    if hasattr(reward, "load"):
        reward.load()
    judge = getattr(reward, "asked", None)
    if judge is not None and hasattr(judge, "judge") and is_main_process():
        answers = ask_labelled(judge)
        if answers.low <= 0.5:
            say(f"rl: the judge may as well throw a coin: {answers}")
    how = model.dtype, model.attn_implementation, stage.build("model.quantization")
    trainer = RoundsTrainer(
        load_policy(start, *how, arguments, bool(adapters)),
        reward,
        arguments,
        dataset,
        tokenizer,
        prompt_with=with_slot or prompt_with,
        rounds=setting.rounds,
        callbacks=[Log(folder.path / "metrics.jsonl")],
        peft_config=adapters,
    )
    figures = train(trainer, arguments.steps_per_checkpoint)
    summary = {f"data/{name}": count for name, count in rows.counts.items()} | figures
    sampling, weights = Sampling(model.max_completion_tokens), experiment.output.weights
    save_model(trainer, tokenizer, folder.model, weights, model.dtype, structs.asdict(sampling))
    if trainer.is_world_process_zero():
        HowToAsk(asked.folder, asked.max_tokens, setting.signals, sampling).save(folder.model)
        write_card(folder, summary)
    return summary


if __name__ == "__main__":
    main()

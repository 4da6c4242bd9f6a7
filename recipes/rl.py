"""GRPO from the cold-start model or the backbone, in the base or the streaming setting."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from alignxplore_trl.cases import Signal, decode_signals, read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import is_main_process
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt, warn_of_losses


@recipe("rl")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Train and save the policy; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    from datasets import Dataset
    from msgspec.structs import asdict
    from transformers import set_seed

    from alignxplore_trl.data.rounds import round_rows
    from alignxplore_trl.inference.how_to_ask import HowToAsk, Sampling
    from alignxplore_trl.judging.questions import ask_labelled
    from alignxplore_trl.reporting.model_card import write_card
    from alignxplore_trl.text.prompts import Prompts
    from alignxplore_trl.training.callbacks import Log, train
    from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model
    from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer

    set_seed(experiment.seed)
    model, setting, folder = experiment.model, experiment.setting, stage.folder
    # Before any weight is loaded, so that what TRL refuses is said first.
    bars = sys.stderr.isatty()
    arguments = stage.arguments(RoundsConfig, "rl", disable_tqdm=not bars)
    from_backbone = arguments.start == "backbone"
    start = model.backbone if from_backbone else str(stage.read("cold_start") / "model")
    tokenizer = policy_tokenizer(start)
    prompts, budget = Prompts(experiment.prompts.folder), experiment.prompts.max_tokens

    def render(signals: Sequence[Signal], earlier: str | None) -> str:
        return prompts.render("inference", signals=signals, earlier=earlier)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    def fit(signals: Sequence[Signal], earlier: str | None) -> FittedPrompt:
        return fit_prompt(render, signals, earlier, count_tokens, budget)

    def prompt_with(row: Mapping[str, Any], earlier: str) -> FittedPrompt:
        return fit(decode_signals(row["signals"]), earlier)

    data = stage.read("data")
    if (published := data / "rounds.jsonl").is_file():
        from alignxplore_trl.data import release

        lines = published.read_text("utf-8").splitlines()
        rows = release.published_rows([*map(json.loads, lines)], count_tokens, budget)
        with_slot = partial(release.prompt_with, count_tokens=count_tokens, max_tokens=budget)
    else:
        rows = round_rows(read_cases(data / "rl.jsonl"), setting.signals, setting.rounds, fit)
        with_slot = None
    warn_of_losses(rows.counts.get("prompts_with_dropped_signals", 0), len(rows.rows), budget)
    reward, adapters = stage.build("reward"), stage.build("peft") or None
    dataset = Dataset.from_list(rows.rows)
    if hasattr(reward, "load"):
        reward.load()
    judge = getattr(reward, "asked", None)
    if judge is not None and hasattr(judge, "judge") and is_main_process():
        answers = ask_labelled(judge)
        if answers.low <= 0.5:
            say(f"rl: the judge may as well throw a coin: {answers}")
    if hasattr(reward, "prepare"):
        dataset = reward.prepare(dataset)
    trainer = RoundsTrainer(
        load_policy(start, model.dtype, model.attn_implementation, arguments, bool(adapters)),
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
    sampling = Sampling(model.max_completion_tokens)
    weights = experiment.output.weights
    save_model(trainer, tokenizer, folder.model, weights, model.dtype, asdict(sampling))
    if trainer.is_world_process_zero():
        asked = (experiment.prompts.folder, budget, setting.signals, setting.rounds)
        HowToAsk(*asked, sampling).save(folder.model)
        write_card(folder, summary)
    return summary


if __name__ == "__main__":
    main()

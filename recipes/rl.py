"""GRPO from the cold-start model or the backbone, in the base or the streaming setting."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from alignxplore_trl.launch.checks import check_room, check_rows
from alignxplore_trl.launch.config import ReleaseData, RLConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import Problems
from alignxplore_trl.run.folder import RunFolder, is_main_process
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt


def main(config: RLConfig, folder: RunFolder) -> None:
    """Train and save the policy; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed
    from trl import GRPOConfig

    from alignxplore_trl.data.release import (
        PublishedPrompts,
        published_examples,
        published_rounds,
    )
    from alignxplore_trl.data.rounds import round_rows, signals_of_row
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.launch.models import load_reward
    from alignxplore_trl.launch.training import (
        adapters,
        callbacks,
        load_policy,
        train_and_save,
        trainer_arguments,
    )
    from alignxplore_trl.reporting.charts import training_chart
    from alignxplore_trl.text.rendering import PromptSet
    from alignxplore_trl.training.outage import OutageSettings
    from alignxplore_trl.training.streaming import RoundsGRPOTrainer
    from alignxplore_trl.training.throughput import ThroughputSettings

    set_seed(config.seed)
    prompts, budget = PromptSet(config.prompts.folder), config.prompts.max_prompt_tokens

    start = config.model.backbone
    if config.start == "cold_start":
        start = str(upstream_folder(config, "cold_start") / "model")
    tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
    prepared = upstream_folder(config, "prepare")

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    def fit(signals: Sequence[Signal], earlier: str | None) -> FittedPrompt:
        return fit_prompt(prompts.inference, signals, earlier, count_tokens, budget)

    published = None
    if isinstance(config.data, ReleaseData):
        published = PublishedPrompts(prompts, count_tokens, budget)
        data = published.rows(published_rounds(prepared), published_examples(prepared))
    else:
        cases = read_split(prepared, "rl")
        data = round_rows(cases, config.setting.signals, config.setting.rounds, fit)

    def prompt_with(row: Mapping[str, Any], earlier: str) -> FittedPrompt:
        if published is not None:
            return published.with_earlier(row, earlier)
        return fit(signals_of_row(row), earlier)

    limit = config.trainer["max_completion_length"]
    Problems(
        check_rows(config, len(data.rows))
        + check_room("trainer.max_completion_length", limit, budget, start)
    ).raise_if_any()

    # Before GRPOConfig, which tells transformers to shard what is loaded after it under ZeRO-3: the
    # judge is asked by each process alone and has to be whole.
    reward = load_reward(config.reward, config, prompts)
    arguments = trainer_arguments(GRPOConfig, config, folder)
    trainer = RoundsGRPOTrainer(
        model=load_policy(config.model, start),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list([asdict(row) for row in data.rows]),
        processing_class=tokenizer,
        prompt_with=prompt_with,
        rounds=config.setting.rounds,
        round_credit=config.round_credit,
        completions_folder=folder.completions,
        completions_every=config.completions_every,
        outage=OutageSettings(**asdict(config.reward.outage)),
        throughput=ThroughputSettings(**asdict(config.throughput)),
        callbacks=callbacks(folder),
        peft_config=adapters(config.peft),
    )
    figures = train_and_save(trainer, tokenizer, folder, config)
    if is_main_process():
        metrics = {config.run_name: read_metrics(folder.metrics)}
        training_chart(metrics, folder.path / "curves.png")
    folder.finish({f"data/{name}": count for name, count in data.counts.items()} | figures)


if __name__ == "__main__":
    run_recipe(RLConfig, main, sys.argv[1:])

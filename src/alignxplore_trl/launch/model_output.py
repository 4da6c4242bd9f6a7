"""What a training leaves in `model/`: weights, tokenizer, sampling and a card; and on the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer import TRAINING_ARGS_NAME

from alignxplore_trl.inference.describing import SamplingSettings, generation_config
from alignxplore_trl.inference.how_to_ask import PromptSettings, save_how_to_ask
from alignxplore_trl.launch.config import ColdStartConfig, RLConfig, Sampling
from alignxplore_trl.launch.hub import push
from alignxplore_trl.reporting.model_card import TrainedModel, model_card
from alignxplore_trl.run.environment import read_environment
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.rendering import PromptSet


def save_model(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunFolder,
    config: ColdStartConfig | RLConfig,
    figures: Mapping[str, float],
) -> None:
    """Save what was trained to `model/`, and send it to the Hub where `output` says so.

    All processes have to call it; the first one writes.

    Args:
        trainer: after the training.
        tokenizer: of the model.
        folder: of the run.
        config: of the run.
        figures: of the whole run, for the card.

    Raises:
        UserError: the Hub can't be reached, or refuses; `model/` is complete then.
    """
    save_weights(trainer, folder.model, config.output.weights, getattr(torch, config.model.dtype))
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(folder.model)
        _save_sampling(trainer, tokenizer, folder.model, config)
        setting, prompts = config.setting, config.prompts
        settings = PromptSettings(prompts.max_prompt_tokens, setting.signals, setting.rounds)
        save_how_to_ask(folder.model, PromptSet(prompts.folder), settings)
        card = model_card(_trained_model(config, folder, figures), read_metrics(folder.metrics))
        write_text_atomic(folder.model / "README.md", card)
    trainer.accelerator.wait_for_everyone()
    # Behind the barrier: what the Hub refuses ends this process, and none waits for it.
    repository = config.output.push_to_hub
    if repository is not None and trainer.accelerator.is_main_process:
        files = {
            str(path.relative_to(folder.model)): path
            for path in sorted(folder.model.rglob("*"))
            if path.is_file()
        }
        say(f"pushed to {push('output.push_to_hub', 'model', repository, files)}")


def save_weights(
    trainer: Trainer, target: Path, weights: Literal["merged", "adapters"], dtype: torch.dtype
) -> None:
    """Save a model as any other: adapters merged into the weights they were trained on.

    The trainer gathers what ZeRO-3 or FSDP has sharded. Of a model with adapters that is the
    adapters, and the first process merges them into a fresh copy of the base: the one in the
    trainer may be sharded, or have drifted where weights were merged and unmerged for vLLM.

    Args:
        trainer: after the training.
        target: the folder.
        weights: `adapters` leaves them alone; without adapters it makes no difference.
        dtype: of merged weights.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    merges = isinstance(model, PeftModel) and weights == "merged"
    saved = target.with_name(f".{target.name}.adapters") if merges else target
    trainer.save_model(str(saved))
    if not trainer.accelerator.is_main_process:
        return
    if merges:
        # Or else ZeRO-3 would shard the copy over processes that don't take part.
        unset_hf_deepspeed_config()
        merged_model(saved, dtype).save_pretrained(target)
        shutil.rmtree(saved)
    # The trainer's arguments as a pickle, with paths of this machine; config.yaml has them.
    (target / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def merged_model(adapters: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base of some adapters with the adapters merged into it.

    Merged in float32, and rounded once: in bfloat16 (or by peft's safe merge into a bfloat16 base)
    the product of the adapters is rounded before it is added, and some weights end beside the
    nearest one.

    Args:
        adapters: their folder, which names the base.
        dtype: of the result.
    """
    model = AutoPeftModelForCausalLM.from_pretrained(adapters, dtype=torch.float32)
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    merged.to(dtype)  # type: ignore[arg-type]
    return merged


def _save_sampling(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    config: ColdStartConfig | RLConfig,
) -> None:
    """generation_config.json: how descriptions are sampled, and where rollouts ended."""
    sampling = generation_config(sampling_at_inference(config), tokenizer)
    model = trainer.accelerator.unwrap_model(trainer.model)
    ends = model.generation_config.eos_token_id
    own = ends if isinstance(ends, list) else [ends]
    more = [end for end in own if end not in (None, tokenizer.eos_token_id)]
    if more:
        sampling.eos_token_id = [tokenizer.eos_token_id, *more]
    sampling.save_pretrained(target)


def sampling_at_inference(config: ColdStartConfig | RLConfig) -> SamplingSettings:
    """How descriptions are sampled from the trained model."""
    asked: Sampling = config.sampling
    limit = config.model.max_completion_tokens
    return SamplingSettings(limit, asked.temperature, asked.top_p, asked.top_k)


def _trained_model(
    config: ColdStartConfig | RLConfig, folder: RunFolder, figures: Mapping[str, float]
) -> TrainedModel:
    backbone, setting = config.model.backbone, config.setting
    facts = {
        "backbone": backbone,
        "users": f"{config.data.name} {config.data.path or ''}".strip(),
        "setting": f"{setting.name}, {setting.rounds} x {setting.signals} signals",
        "judge": f"{config.judge.model} ({config.judge.name})",
        "adapters": "none" if config.peft.lora is None else str(config.peft.lora),
        "saved": config.output.weights,
        "longest prompt, completion": f"{config.prompts.max_prompt_tokens}, "
        f"{config.model.max_completion_tokens} tokens",
        "processes": str(config.launch.num_processes),
        "seed": str(config.seed),
    }
    if isinstance(config, RLConfig):
        facts |= {"reward": config.reward.name, "started from": config.start}
    else:
        facts |= {"examples": config.examples}
    facts |= {
        f"run of {key}": str(name) for key, name in config.upstream.items() if name is not None
    }
    return TrainedModel(
        name=folder.path.name,
        recipe="rl" if isinstance(config, RLConfig) else "cold_start",
        base_model=None if Path(backbone).exists() else backbone,
        weights=config.output.weights,
        facts=facts,
        trainer=config.trainer,
        environment=read_environment(folder.path),
        figures=figures,
    )

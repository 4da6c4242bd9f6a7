"""The policy's model: how it is loaded to be trained, and what `model/` holds afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils.quantization_config import QuantizationConfigMixin

from alignxplore_trl.judging.weights import in_words, load_tokenizer, outside_zero3
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.completions import tags_survive


def load_policy(
    source: str,
    dtype: str,
    attn_implementation: str,
    quantization: QuantizationConfigMixin | None,
    args: TrainingArguments,
    adapters: bool,
) -> PreTrainedModel:
    """Load the model that is trained, from a folder or by its name on the Hub.

    A step at lr 1e-6 changes hardly any weight that is kept in bfloat16. With `bf16`, ZeRO and FSDP
    keep a float32 copy, and adapters are small; elsewhere the weights are loaded in float32.

    Raises:
        UserError: there is no such model, or vLLM would have to be sent quantized weights.
    """
    if quantization is not None and getattr(args, "use_vllm", False):
        raise UserError(
            "rl.use_vllm: true found, expected false with a quantized base (peft=qlora)"
        )
    fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"  # Of accelerate launch.
    copied = args.bf16 and (args.deepspeed_plugin is not None or fsdp)
    if dtype != "float32" and not adapters and not copied:
        say(f"{source}: trained in float32, since nothing keeps a copy of {dtype} weights in it")
        dtype = "float32"
    with in_words(source):
        return AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization,
            device_map=args.device if quantization is not None else None,
        )


def policy_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The policy's tokenizer; a `UserError` if it loses a tag of the completion format."""
    tokenizer = load_tokenizer(source)
    if problems := tags_survive(tokenizer):
        raise UserError([f"{source}: {problem}" for problem in problems])
    tokenizer.padding_side = "left"
    return tokenizer


def save_model(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    weights: Literal["merged", "adapters"],
    dtype: str,
    sampling: Mapping[str, Any],
) -> None:
    """Save weights, tokenizer and how the model is sampled; all processes call it.

    Trainer gathers what ZeRO-3 or FSDP has sharded. Adapters stay alone, or are merged into a fresh
    copy of their base, in float32 and rounded once to `dtype`. `sampling` are arguments of
    `GenerationConfig`; every token that ends a completion is added.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    merges = isinstance(model, PeftModel) and weights == "merged"
    saved = target.with_name(f".{target.name}.adapters") if merges else target
    trainer.save_model(str(saved))
    if trainer.accelerator.is_main_process:
        with outside_zero3():  # Only this process loads what is written anew.
            if merges:
                whole = AutoPeftModelForCausalLM.from_pretrained(saved, dtype=dtype).float()
                whole.merge_and_unload().to(getattr(torch, dtype)).save_pretrained(target)
                shutil.rmtree(saved)
            elif not isinstance(model, PeftModel) and model.dtype != getattr(torch, dtype):
                AutoModelForCausalLM.from_pretrained(target, dtype=dtype).save_pretrained(target)
        # The arguments as a pickle, with paths of this machine; config.yaml has them.
        (target / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        tokenizer.save_pretrained(target)
        ends = model.generation_config.eos_token_id or []
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        GenerationConfig(
            do_sample=True,
            eos_token_id=sorted(ends) if len(ends) > 1 else tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        ).save_pretrained(target)
    trainer.accelerator.wait_for_everyone()

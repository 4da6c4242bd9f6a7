"""LoRA with vLLM: what is sent to vLLM is made beside the base weights, which stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from trl.generation.vllm_generation import VLLMGeneration


def keep_base_weights(engine: VLLMGeneration) -> None:
    """Make TRL's engine send merged weights without merging them into the model.

    TRL merges the adapters for each transfer and subtracts them again; in bfloat16 that doesn't end
    where it began. Here the sum is taken layer by layer in float32 and rounded once. Variants of
    LoRA go TRL's way, and so does FSDP, whose weights are in float32.
    """
    layers = [each for each in engine.model.modules() if isinstance(each, LoraLayer)]
    plain = not any(each.lora_variant or any(each.lora_bias.values()) for each in layers)
    if layers and plain and not engine._dist.is_fsdp:
        engine._iter_named_params = lambda: _merged_weights(engine)  # type: ignore[method-assign]


def _merged_weights(engine: VLLMGeneration) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, one after the other, under the names of the model without adapters."""
    model: Any = engine.model
    for name, weight in model.named_parameters():
        if model.prefix in name or "original_module" in name:
            continue
        adapted = name.endswith(".base_layer.weight")
        layer = model.get_submodule(name.removesuffix(".base_layer.weight")) if adapted else None
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        with engine._dist.gather_params([*layer.parameters()] if layer else [weight]):
            value = weight.data
            if layer:
                deltas = [layer.get_delta_weight(own).float() for own in layer.active_adapters]
                value = sum(deltas, start=value.float()).to(value.dtype)
            yield engine._fix_param_name_to_vllm(plain, ["modules_to_save.default."]), value

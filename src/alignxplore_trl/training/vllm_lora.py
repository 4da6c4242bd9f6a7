"""LoRA with vLLM: what is sent to vLLM is made beside the base weights, which stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from trl.generation.vllm_generation import VLLMGeneration


def keep_base_weights(engine: VLLMGeneration) -> None:
    """Make an engine of TRL send merged weights without merging them into the model.

    TRL merges the adapters before each transfer and subtracts them afterwards. In bfloat16 that
    doesn't end where it began, and the base drifts with every step. Here the sum is taken layer by
    layer in float32 and rounded once. Plain LoRA only; its variants go TRL's way, and so does FSDP,
    which trains on float32 copies.
    """
    layers = [each for each in engine.model.modules() if isinstance(each, LoraLayer)]
    plain = not any(each.lora_variant or any(each.lora_bias.values()) for each in layers)
    if layers and plain and not engine._dist.is_fsdp:
        engine._iter_named_params = lambda: merged_weights(engine)


def merged_weights(engine: VLLMGeneration) -> Iterator[tuple[str, torch.Tensor]]:
    """The policy's weights under the names of the model without adapters, one after the other."""
    model = engine.model
    for name, parameter in model.named_parameters():
        if model.prefix in name or "original_module" in name:
            continue
        layer = model.get_submodule(name.rpartition(".base_layer.")[0])
        adapted = name.endswith(".base_layer.weight")
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        with engine._dist.gather_params(list(layer.parameters()) if adapted else [parameter]):
            weight = _merged(layer, parameter.data) if adapted else parameter.data
            yield engine._fix_param_name_to_vllm(plain, ["modules_to_save.default."]), weight


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.scaling:
            total = total + layer.get_delta_weight(adapter).float()
    return total.to(weight.dtype)

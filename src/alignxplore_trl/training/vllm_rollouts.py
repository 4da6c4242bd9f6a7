"""Rollouts in vLLM: what TRL's engine lacks, and how far off its probabilities are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from trl import GRPOConfig
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

# More than this share of ratios beyond the clip range is worth a warning.
LARGEST_USUAL_SHARE = 0.01


class RolloutEngine(VLLMGeneration):
    """TRL's engine, with base weights that stay as they are and weights that a CPU can load again.

    TRL merges adapters into the base weights before each transfer and subtracts them afterwards. In
    bfloat16 that doesn't come out where it began, and the base drifts with every step. Here the sum
    is taken beside the base weights, layer by layer, in float32, and rounded once. This holds for
    plain LoRA; its variants (DoRA, a bias of its own) go TRL's way, and so does FSDP, which gathers
    by whole modules.
    """

    def _init_vllm(self) -> None:
        if self.mode == "colocate" and self.accelerator.device.type == "cpu":
            with _weights_that_a_cpu_loads_again():
                super()._init_vllm()  # type: ignore[no-untyped-call]
        else:
            super()._init_vllm()  # type: ignore[no-untyped-call]

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._dist.is_fsdp or not _has_plain_adapters(self.model):
            yield from super()._iter_named_params()  # type: ignore[no-untyped-call]
            return
        adapters = str(self.model.prefix)
        for name, parameter in self.model.named_parameters():
            if adapters in name or "original_module" in name:
                continue
            layer = self.model.get_submodule(name.rpartition(".base_layer.")[0])
            adapted = name.endswith(".base_layer.weight")
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            with self._dist.gather_params(list(layer.parameters()) if adapted else [parameter]):
                weight = merged_weight(layer, parameter.data) if adapted else parameter.data
                yield self._fix_param_name_to_vllm(plain, ["modules_to_save.default."]), weight


def _has_plain_adapters(model: nn.Module) -> bool:
    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    return bool(layers) and not any(
        layer.lora_variant or any(layer.lora_bias.values()) for layer in layers
    )


def merged_weight(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """A layer's weight with its active adapters added, in the weight's dtype.

    Args:
        layer: a `LoraLayer` with plain LoRA.
        weight: of its base layer.
    """
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.scaling:
            total = total + layer.get_delta_weight(adapter).float()
    merged: torch.Tensor = total.to(weight.dtype)
    return merged


@contextmanager
def rollout_engine() -> Iterator[None]:
    """Within it, a `GRPOTrainer` that is made gets a `RolloutEngine`."""
    with _replaced(grpo_trainer, "VLLMGeneration", RolloutEngine):
        yield


@contextmanager
def _weights_that_a_cpu_loads_again() -> Iterator[None]:
    """Within it, vLLM keeps float32 (its own choice is bfloat16), and doesn't pack weights."""
    from vllm import _custom_ops  # type: ignore[import-not-found]

    engine = partial(vllm_generation.LLM, dtype="float32")
    with (
        _replaced(_custom_ops, "_supports_onednn", False),
        _replaced(vllm_generation, "LLM", engine),
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def sampling_metrics(
    batch: Mapping[str, Any],
    args: GRPOConfig,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, float]:
    """How far vLLM's probabilities are from the policy's, before anything is clipped.

    The ratio is p_policy / p_vLLM: of a token, or in TRL's sequence modes of a whole completion.

    Args:
        batch: this process's, as TRL scored it: `old_per_token_logps`, `sampling_per_token_logps`
            and `completion_mask`, each (completions, tokens).
        args: with mode and bounds of the correction.
        gather: of accelerate: values of all processes.

    Returns:
        Over all processes: `raw_ratio/mean`, `…/min` and `…/max`, and `truncated_share` or, in the
        mask modes, `masked_share`: of the ratios beyond the bounds. Nothing where there was nothing
        to compare.
    """
    # Without the correction TRL computes no probabilities of the policy to compare with.
    if not {"old_per_token_logps", "sampling_per_token_logps"} <= batch.keys():
        return {}
    mode = args.vllm_importance_sampling_mode
    mask = batch["completion_mask"].bool()
    difference = batch["old_per_token_logps"] - batch["sampling_per_token_logps"]
    known = mask & ~difference.isnan()
    by_sequence = mode.startswith("sequence")
    logs = difference.where(known, 0.0).sum(1) if by_sequence else difference[known]
    ratios = logs.double().exp()
    least = args.vllm_importance_sampling_clip_min
    most = args.vllm_importance_sampling_clip_max
    beyond = torch.zeros_like(ratios, dtype=torch.bool)
    if least is not None:
        beyond |= ratios < least
    if most is not None:
        beyond |= ratios > most
    infinity = ratios.new_tensor([torch.inf])
    own = torch.stack(
        [
            ratios.new_tensor(float(len(ratios))),
            ratios.sum(),
            beyond.double().sum(),
            torch.cat([ratios, infinity]).min(),
            torch.cat([ratios, -infinity]).max(),
        ]
    )
    count, total, outside, smallest, largest = gather(own[None]).T
    if not count.sum():
        return {}
    share = "masked_share" if mode.endswith("mask") else "truncated_share"
    return {
        "sampling/raw_ratio/mean": (total.sum() / count.sum()).item(),
        "sampling/raw_ratio/min": smallest.min().item(),
        "sampling/raw_ratio/max": largest.max().item(),
        f"sampling/{share}": (outside.sum() / count.sum()).item(),
    }


def share_warning(metrics: Mapping[str, float], args: GRPOConfig) -> str | None:
    """A line for people where more ratios than usual lie beyond the bounds; `None` where not."""
    for name in ("truncated_share", "masked_share"):
        share = metrics.get(f"sampling/{name}", 0.0)
        if share > LARGEST_USUAL_SHARE:
            return (
                f"sampling: {100 * share:.1f} % of the ratios between the policy's probabilities "
                f"and vLLM's lie beyond trainer.vllm_importance_sampling_clip_min/max "
                f"({args.vllm_importance_sampling_clip_min}, "
                f"{args.vllm_importance_sampling_clip_max}), in mode "
                f"{args.vllm_importance_sampling_mode}; they go up to "
                f"{metrics['sampling/raw_ratio/max']:.3g}. Compute both in one dtype, or see "
                "docs/scaling.md"
            )
    return None

"""Adapters on their way to vLLM leave the base weights as they were."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration

from alignxplore_trl.training.vllm_lora import keep_base_weights
from tests.training import tiny


class Accelerator:
    """One process without DeepSpeed and FSDP, as far as an engine reads it."""

    class state:  # noqa: N801
        deepspeed_plugin = None


def engine(ours):
    """TRL's engine as far as it hands out weights, on a bfloat16 model with adapters."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    made = object.__new__(VLLMGeneration)
    made.model = get_peft_model(tiny.model().to(torch.bfloat16), lora)
    made._dist = DistributedBackend(Accelerator())
    if ours:
        keep_base_weights(made)
    return made


def base_of(model):
    return {n: w.detach().clone() for n, w in model.named_parameters() if "lora_" not in n}


def test_the_base_stays_as_it_is_and_does_not_with_trls_own_way():
    drift = {}
    for ours in (True, False):
        made = engine(ours)
        before = base_of(made.model)
        for _ in range(20):
            list(made._iter_named_params())
        after = base_of(made.model)
        drift[ours] = max((after[n] - w).abs().max().item() for n, w in before.items())
    assert drift[True] == 0.0
    assert drift[False] > 1e-4


def test_what_is_sent_is_the_sum_rounded_once_under_the_models_own_names():
    made = engine(True)
    found = {name: value.clone() for name, value in made._iter_named_params()}
    assert found.keys() == dict(tiny.model().named_parameters()).keys()
    layer = made.model.base_model.model.model.layers[1].mlp.down_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    sent = found["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(sent, exact.to(torch.bfloat16))
    assert not torch.equal(sent, layer.base_layer.weight)
    assert torch.equal(found["model.norm.weight"], made.model.base_model.model.model.norm.weight)

"""Adapters on their way to vLLM leave the base weights as they were."""

from __future__ import annotations

import pytest
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


@pytest.fixture
def engine():
    """TRL's engine as far as it hands out weights, on a bfloat16 model with adapters."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    made = object.__new__(VLLMGeneration)
    made.model = get_peft_model(tiny.model().to(torch.bfloat16), lora)
    made._dist = DistributedBackend(Accelerator())
    keep_base_weights(made)
    return made


def test_the_base_stays_as_it_is(engine):
    before = {name: weight.clone() for name, weight in engine.model.named_parameters()}
    list(engine._iter_named_params())
    for name, weight in engine.model.named_parameters():
        assert torch.equal(weight, before[name])


def test_what_is_sent_is_the_sum_rounded_once_under_the_models_own_names(engine):
    found = {name: value.clone() for name, value in engine._iter_named_params()}
    assert found.keys() == dict(tiny.model().named_parameters()).keys()
    layer = engine.model.base_model.model.model.layers[1].mlp.down_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    sent = found["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(sent, exact.to(torch.bfloat16))
    assert not torch.equal(sent, layer.base_layer.weight)
    assert torch.equal(found["model.norm.weight"], engine.model.base_model.model.model.norm.weight)

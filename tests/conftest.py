"""Fixtures that many tests share: the compact prompts, and a small model with random weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import Shape, build_model, build_tokenizer

torch.set_num_threads(1)
# A slow machine is no failure of a property.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def prompts() -> PromptSet:
    return PromptSet("compact")


@pytest.fixture(scope="session")
def tokenizer(prompts: PromptSet) -> PreTrainedTokenizerFast:
    return build_tokenizer(prompts, vocabulary=1000, seed=0)


@pytest.fixture
def random_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two layers of width 64 with random weights: fast, and no less real than a trained one."""
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    return build_model(shape, tokenizer, seed=0).eval()

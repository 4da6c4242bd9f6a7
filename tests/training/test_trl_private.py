"""What is private in TRL and yet relied on is as it was when that was written."""

from __future__ import annotations

import inspect

from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from alignxplore_trl.training.trl_private import METHODS, SOURCES

OWNERS = {"GRPOTrainer": GRPOTrainer, "VLLMGeneration": VLLMGeneration}


def method(name):
    owner, _, own = name.partition(".")
    return getattr(OWNERS[owner], own)


def test_signatures_and_sources_are_those_relied_on():
    for signature in METHODS:
        name, _, _ = signature.partition("(")
        bare = [
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in inspect.signature(method(name)).parameters.values()
        ]
        found = name + str(inspect.Signature(bare))
        assert found.startswith(signature), f"TRL has changed: {found}"
    for text, name in SOURCES.items():
        assert text in inspect.getsource(method(name)), f"TRL has changed: {name} lacks {text}"

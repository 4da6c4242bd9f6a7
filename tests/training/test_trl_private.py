"""What is private in TRL and yet relied on; an upgrade that changes any of it fails here."""

from __future__ import annotations

import inspect

from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

# Method with its parameters -> why no public way serves.
METHODS = {
    # Overridden.
    "GRPOTrainer._generate_and_score_completions(self, inputs)": (
        "only here are a batch's rows seen before they are generated from (transforms and collators"
        " run a batch early), and its tensors before they are shuffled"
    ),
    "GRPOTrainer._generate(self, prompts)": (
        "a round's prompts hold what the round before has written, with credit in the same batch; "
        "rollout_func would have to do TRL's generation, too"
    ),
    "GRPOTrainer._get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, "
    "logits_to_keep, batch_size=None, compute_entropy=False, ": (
        "the one forward pass under all of TRL's losses, which takes padded rows"
    ),
    # Replaced, and called there.
    "VLLMGeneration._iter_named_params(self)": "merges adapters into the base",
    "VLLMGeneration._fix_param_name_to_vllm(self, name, extra_prefixes=None)": "vLLM's names",
}
# What else is relied on -> where it stands.
SOURCES = {
    "self._dist.gather_params(": "VLLMGeneration._iter_named_params",
    "self._dist.is_fsdp": "VLLMGeneration._iter_named_params",
    # The list that is filled in is the one that goes on.
    "self._generate(prompts)": "GRPOTrainer._generate_and_score_completions",
    "self._calculate_rewards(inputs, prompts,": "GRPOTrainer._generate_and_score_completions",
}
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

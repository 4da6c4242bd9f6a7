"""What is private in TRL and yet relied on here, and why no public way serves.

A test compares these names, signatures and sources with the installed TRL, so that an upgrade that
changes them is noticed before a run is.
"""

from __future__ import annotations

# Method, with its parameters -> why it is overridden or called.
METHODS = {
    "GRPOTrainer._generate_and_score_completions(self, inputs)": (
        "overridden: the only place that sees a batch's rows before they are generated from (data "
        "transforms and collators run a batch early), and all tensors before they are shuffled"
    ),
    "GRPOTrainer._generate(self, prompts)": (
        "overridden: a round's prompts hold what the round before has written, and with credit both "
        "are in one batch; `rollout_func` would have to do TRL's generation, too"
    ),
    "GRPOTrainer._get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, "
    "logits_to_keep, batch_size=None, compute_entropy=False, compute_aux_loss=False, ": (
        "overridden: the one forward pass under all of TRL's losses, which takes padded rows"
    ),
    "VLLMGeneration._iter_named_params(self)": (
        "replaced: it merges adapters into the base weights, and subtracts them, at each transfer"
    ),
    "VLLMGeneration._fix_param_name_to_vllm(self, name, extra_prefixes=None)": (
        "called: the names under which vLLM knows the weights"
    ),
}
# What is read, and in whose source it stands.
ATTRIBUTES = {
    "self._dist.gather_params(": "VLLMGeneration._iter_named_params",
    "self._dist.is_fsdp": "VLLMGeneration._iter_named_params",
    # `prompts` is handed on as it was filled in.
    "self._generate(prompts)": "GRPOTrainer._generate_and_score_completions",
    "self._calculate_rewards(inputs, prompts,": "GRPOTrainer._generate_and_score_completions",
}

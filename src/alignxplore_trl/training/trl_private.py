"""The one place that names what is private in TRL and transformers and yet relied on here.

Their private methods change without notice. `changed_private_names` compares the installed
versions with what the trainers of this package were written against; a test fails on any
difference, so that an upgrade is noticed before a run, not by its results.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration

# Methods that are overridden: (class, name) -> parameters without annotations.
OVERRIDDEN: Mapping[tuple[type, str], str] = {
    # streaming.py
    (GRPOTrainer, "_get_train_sampler"): "(self, dataset=None)",
    (GRPOTrainer, "_generate_and_score_completions"): "(self, inputs)",
    (GRPOTrainer, "_generate"): "(self, prompts)",
    (GRPOTrainer, "_calculate_rewards"): (
        "(self, inputs, prompts, completions, completion_ids_list)"
    ),
    (GRPOTrainer, "_load_optimizer_and_scheduler"): "(self, checkpoint)",
    # vllm_rollouts.py
    (VLLMGeneration, "_init_vllm"): "(self)",
    (VLLMGeneration, "_iter_named_params"): "(self)",
    # checkpoints.py, streaming.py
    (Trainer, "_run_epoch"): (
        "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, "
        "steps_trained_in_current_epoch)"
    ),
    # checkpoints.py
    (GRPOTrainer, "_save_checkpoint"): "(self, model, trial)",
    (SFTTrainer, "_save_checkpoint"): "(self, model, trial)",
    # cold_start.py
    (SFTTrainer, "compute_loss"): (
        "(self, model, inputs, return_outputs=False, num_items_in_batch=None)"
    ),
    (Trainer, "_get_num_items_in_batch"): "(self, batch_samples, device)",
    # throughput.py
    (GRPOTrainer, "compute_loss"): (
        "(self, model, inputs, return_outputs=False, num_items_in_batch=None)"
    ),
}
# Methods that are called, not overridden.
CALLED: Mapping[tuple[type, str], str] = {
    (Trainer, "_get_output_dir"): "(self, trial)",
    (GRPOTrainer, "_log_completion_extra"): "(self, column, values)",
    (VLLMGeneration, "_fix_param_name_to_vllm"): "(self, name, extra_prefixes=None)",
}
# Attributes of a `GRPOTrainer` that are used: micro-batches done, metrics to log, the last
# generation batch, gathered over processes, as lists by column, what a reward logged since, and
# how weights go to vLLM.
ATTRIBUTES = (
    "_step",
    "_metrics",
    "_logs",
    "_pending_metrics",
    "_pending_extra_logs",
    "vllm_generation.sync_weights()",
)
# What is replaced while a trainer is made, or read of its engine, and the code that has it.
REPLACED: Mapping[str, Any] = {
    "VLLMGeneration(": GRPOTrainer.__init__,
    "LLM(": VLLMGeneration._init_vllm,
    "self._dist.": VLLMGeneration._iter_named_params,
}


def changed_private_names() -> list[str]:
    """What differs between the installed TRL and transformers and the tables above, in words."""
    expected = {**OVERRIDDEN, **CALLED}
    changed = []
    for (owner, name), signature in expected.items():
        found = _signature_of(getattr(owner, name, None))
        if found != signature:
            changed.append(f"{owner.__name__}.{name}: {found} found, expected {signature}")
    source = inspect.getsource(GRPOTrainer)
    changed += [
        f"GRPOTrainer.{name}: no longer used" for name in ATTRIBUTES if f"self.{name}" not in source
    ]
    changed += [
        f"{code.__qualname__}: {name} isn't looked up there any more"
        for name, code in REPLACED.items()
        if name not in inspect.getsource(code)
    ]
    return changed


def _signature_of(method: Any) -> str | None:
    """Parameters and defaults; annotations are left out: Python versions print them apart."""
    if method is None:
        return None
    signature = inspect.signature(method)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))

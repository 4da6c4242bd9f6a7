import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_training import tiny_model
from trl import GRPOConfig
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration

from alignxplore_trl.training.vllm_rollouts import (
    RolloutEngine,
    sampling_metrics,
    share_warning,
)

# --- adapters ------------------------------------------------------------------------------------


class Accelerator:
    """One process without DeepSpeed and FSDP, as far as an engine reads it."""

    class state:  # noqa: N801
        deepspeed_plugin = None


def engine_of(kind, model):
    """An engine as far as it hands out weights, without vLLM."""
    engine = object.__new__(kind)
    engine.model, engine._dist = model, DistributedBackend(Accelerator())
    return engine


def adapted_model(**options):
    """A model in bfloat16 with adapters that say something."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)
    model = get_peft_model(tiny_model().to(torch.bfloat16), settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    return model


def base_of(model):
    return {
        name: parameter.clone()
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }


def test_transfers_leave_the_base_weights_as_they_were():
    """And TRL's own don't, which is why there is an engine of our own."""
    drift = {}
    for kind in (RolloutEngine, VLLMGeneration):
        model = adapted_model()
        before = base_of(model)
        for _ in range(20):
            list(engine_of(kind, model)._iter_named_params())
        after = base_of(model)
        drift[kind] = max(
            (after[name] - value).abs().max().item() for name, value in before.items()
        )
    assert drift[RolloutEngine] == 0.0
    assert drift[VLLMGeneration] > 1e-4


def test_what_is_transferred_is_the_sum_rounded_once_under_the_models_own_names():
    model = adapted_model()
    found = {
        name: value.clone() for name, value in engine_of(RolloutEngine, model)._iter_named_params()
    }
    assert found.keys() == dict(tiny_model().named_parameters()).keys()
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * 2
    exact = layer.base_layer.weight.double() + delta
    # Half a unit in the last of bfloat16's eight bits.
    error = (found["model.layers.1.mlp.down_proj.weight"].double() - exact).abs()
    assert (error <= exact.abs() * 2**-8 + 1e-6).all()
    assert not torch.equal(
        found["model.layers.1.mlp.down_proj.weight"], layer.base_layer.weight.data
    )
    plain = found["model.norm.weight"]
    torch.testing.assert_close(plain, model.base_model.model.model.norm.weight.data)


def test_a_variant_of_lora_goes_trls_way():
    model = adapted_model(use_dora=True)
    found = dict(engine_of(RolloutEngine, model)._iter_named_params())
    expected = dict(engine_of(VLLMGeneration, model)._iter_named_params())
    assert found.keys() == expected.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(found[name], expected[name])


# --- how far off the samples are -----------------------------------------------------------------


def arguments(tmp_path, mode, low=None, high=3.0):
    return GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )


BATCH = {
    "old_per_token_logps": torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -0.1, -3.0]]),
    "sampling_per_token_logps": torch.tensor([[-1.1, -4.0, -1.0], [-0.5, math.nan, -2.0]]),
    "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
}


def test_ratios_of_tokens_are_those_of_numpy(tmp_path):
    found = sampling_metrics(BATCH, arguments(tmp_path, "token_truncate"), lambda each: each)
    ratios = np.exp([0.1, 2.0, 0.0, -1.0])
    assert found == pytest.approx(
        {
            "sampling/raw_ratio/mean": ratios.mean(),
            "sampling/raw_ratio/min": ratios.min(),
            "sampling/raw_ratio/max": ratios.max(),
            "sampling/truncated_share": 1 / 4,
        },
        rel=1e-6,
    )


def test_ratios_of_completions_are_those_of_numpy(tmp_path):
    args = arguments(tmp_path, "sequence_mask", low=0.5)
    found = sampling_metrics(BATCH, args, lambda each: each)
    ratios = np.exp([2.1, -1.0])
    assert found["sampling/raw_ratio/mean"] == pytest.approx(ratios.mean(), rel=1e-6)
    assert found["sampling/masked_share"] == 1.0
    assert "sampling/truncated_share" not in found


def test_processes_are_put_together_by_their_counts(tmp_path):
    """A process with no token to compare has no say in the mean."""
    empty = {**BATCH, "completion_mask": torch.zeros(2, 3, dtype=torch.int64)}
    rows = []
    args = arguments(tmp_path, "token_truncate")
    for batch in (BATCH, empty):
        sampling_metrics(batch, args, lambda each: rows.append(each) or each)
    found = sampling_metrics(BATCH, args, lambda _: torch.cat(rows))
    assert found == sampling_metrics(BATCH, args, lambda each: each)
    assert sampling_metrics(empty, args, lambda each: each) == {}
    assert sampling_metrics({}, args, lambda each: each) == {}


def test_a_high_share_is_worth_a_line(tmp_path):
    args = arguments(tmp_path, "token_truncate")
    metrics = sampling_metrics(BATCH, args, lambda each: each)
    line = share_warning(metrics, args)
    assert line is not None
    assert "25.0 % of the ratios" in line
    assert "(None, 3.0), in mode token_truncate; they go up to 7.39" in line
    assert share_warning({**metrics, "sampling/truncated_share": 0.009}, args) is None
    assert share_warning({}, args) is None


def test_without_the_correction_there_is_nothing_to_compare():
    """TRL then hands on what vLLM sampled with, and computes no probabilities of the policy."""
    batch = {"sampling_per_token_logps": torch.zeros(2, 3), "completion_mask": torch.ones(2, 3)}
    args = GRPOConfig(vllm_importance_sampling_correction=False, bf16=False, report_to=[])
    assert sampling_metrics(batch, args, lambda values: values) == {}

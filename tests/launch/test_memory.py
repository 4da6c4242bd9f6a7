"""The estimate of a training's memory, against published formulas and what is measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import SFTConfig

from alignxplore_trl.launch.memory import (
    GIB,
    RUNTIME,
    ModelShape,
    Rollouts,
    Scorer,
    Sharding,
    TrainingStep,
    checkpoint_bytes,
    estimate_memory,
    model_bytes,
    vllm_needs,
)
from alignxplore_trl.launch.model_files import read_shape
from alignxplore_trl.training.cold_start import ColdStartTrainer

# DeepSeek-R1-Distill-Qwen-7B, from its config.json.
SEVEN_B = ModelShape(
    parameters=7_615_616_512,
    trained=7_615_616_512,
    largest_layer=152_064 * 3584,
    hidden_size=3584,
    intermediate_size=18_944,
    key_value_size=512,
    layers=28,
    heads=28,
    vocabulary=152_064,
)
STEP = TrainingStep(
    sequences=1,
    tokens=1024,
    dtype="bfloat16",
    mixed_precision=True,
    gradient_checkpointing=True,
    eager_attention=False,
    optimizer="adamw_torch",
)
ALONE = Sharding("none", 1)


def model_states(shape: ModelShape, sharding: Sharding) -> int:
    estimate = estimate_memory(shape, STEP, sharding)
    return estimate.weights + estimate.gradients + estimate.optimizer


def test_zero_3_is_what_deepspeed_publishes_for_t5_small() -> None:
    # 60M weights, 16M in the largest layer: 1.08GB on one GPU. With the optimizer on the CPU
    # 0.17GB, and 1.35GB of main memory; with the weights there, too, 0.06GB and 1.52GB.
    shape = replace(SEVEN_B, parameters=60_506_624, trained=60_506_624, largest_layer=32_128 * 512)
    assert model_states(shape, Sharding("zero", 1, 3)) / GIB == pytest.approx(1.08, abs=0.005)
    optimizer_there = Sharding("zero", 1, 3, optimizer_on_cpu=True)
    assert model_states(shape, optimizer_there) / GIB == pytest.approx(0.17, abs=0.005)
    assert estimate_memory(shape, STEP, optimizer_there).host / GIB == pytest.approx(
        1.35, abs=0.005
    )
    both_there = replace(optimizer_there, weights_on_cpu=True)
    assert model_states(shape, both_there) / GIB == pytest.approx(0.06, abs=0.005)
    assert estimate_memory(shape, STEP, both_there).host / GIB == pytest.approx(1.52, abs=0.005)


@pytest.mark.parametrize("processes", [1, 8, 64])
def test_zero_divides_as_deepspeeds_estimators_do(processes: int) -> None:
    weights, largest = SEVEN_B.parameters, SEVEN_B.largest_layer
    stage_3 = 4 * largest + 18 * weights // processes
    assert model_states(SEVEN_B, Sharding("zero", processes, 3)) == pytest.approx(stage_3, abs=8)
    stage_2 = 4 * weights + 16 * weights // processes
    assert model_states(SEVEN_B, Sharding("zero", processes, 2)) == pytest.approx(stage_2, abs=8)
    moved = Sharding("zero", processes, 2, optimizer_on_cpu=True)
    assert model_states(SEVEN_B, moved) == 2 * weights


def test_a_float32_copy_is_kept_by_fsdp_alone() -> None:
    weights = SEVEN_B.parameters
    assert model_states(SEVEN_B, ALONE) == weights * (2 + 2 + 2 * 2)
    assert model_states(SEVEN_B, Sharding("ddp", 8)) == weights * (2 + 2 * 2 + 2 * 2)
    alone = model_states(SEVEN_B, Sharding("fsdp", 1))
    assert alone == weights * (4 + 4 + 8) + 2 * SEVEN_B.largest_layer * 2
    assert model_states(SEVEN_B, Sharding("fsdp", 8)) < alone / 4


def test_adapters_cost_what_they_are() -> None:
    adapted = replace(SEVEN_B, trained=80_740_352, parameters=SEVEN_B.parameters + 80_740_352)
    states = model_states(adapted, ALONE)
    assert states == SEVEN_B.parameters * 2 + 80_740_352 * (4 + 4 + 8)
    assert estimate_memory(adapted, STEP, ALONE).activations < (
        estimate_memory(SEVEN_B, STEP, ALONE).activations
    )


def test_eight_bit_states_are_a_byte_each() -> None:
    quick = replace(STEP, optimizer="adamw_bnb_8bit")
    assert estimate_memory(SEVEN_B, quick, ALONE).optimizer == 2 * SEVEN_B.parameters
    assert estimate_memory(SEVEN_B, replace(STEP, optimizer="sgd"), ALONE).optimizer == 0


def test_rollouts_hold_keys_and_values_and_gathered_weights() -> None:
    rollouts = Rollouts(64, 2048, 2048, "transformers")
    alone = estimate_memory(SEVEN_B, STEP, ALONE, rollouts=rollouts)
    cache = 64 * 4096 * 28 * 2 * 512 * 2
    assert cache < alone.rollouts < 3 * cache
    sharded = estimate_memory(SEVEN_B, STEP, Sharding("zero", 8, 3), rollouts=rollouts)
    assert sharded.rollouts == alone.rollouts + 2 * SEVEN_B.parameters
    served = estimate_memory(SEVEN_B, STEP, ALONE, rollouts=replace(rollouts, engine="server"))
    assert served.rollouts == served.vllm == 0


def test_a_colocated_vllm_takes_its_share_unless_it_sleeps() -> None:
    rollouts = Rollouts(64, 2048, 2048, "colocated", share_of_card=0.3)
    awake = estimate_memory(SEVEN_B, STEP, ALONE, rollouts=rollouts, card=80 * GIB)
    assert awake.vllm == int(0.3 * 80 * GIB)
    assert awake.peak == awake.held + awake.vllm + awake.activations
    sleeps = replace(rollouts, sleeps=True)
    asleep = estimate_memory(SEVEN_B, STEP, ALONE, rollouts=sleeps, card=80 * GIB)
    assert asleep.peak == asleep.held + max(asleep.vllm, asleep.activations)
    assert vllm_needs(SEVEN_B, "bfloat16", 4096, 1) > 2 * SEVEN_B.parameters
    assert vllm_needs(SEVEN_B, "bfloat16", 4096, 2) < 2 * SEVEN_B.parameters


def test_a_judge_in_the_process_is_whole_in_each() -> None:
    judge = Scorer(SEVEN_B, "bfloat16", 16_384, reads_all_positions=False)
    estimate = estimate_memory(SEVEN_B, STEP, Sharding("zero", 8, 3), scorers=(judge,))
    assert estimate.scorers == 2 * SEVEN_B.parameters
    generator = estimate_memory(
        SEVEN_B, STEP, ALONE, scorers=(replace(judge, reads_all_positions=True),)
    )
    assert generator.scoring == estimate.scoring + 16_384 * 152_064 * 2
    assert set(estimate.parts()) == {
        "weights", "gradients", "optimizer", "activations", "judges", "judging", "runtime",
    }  # fmt: skip


def saved_bytes(model: LlamaForCausalLM, batch: torch.Tensor, *, bf16: bool) -> int:
    """What autograd keeps of a forward pass of the blocks, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model.model(input_ids=batch, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_blocks_activations_are_what_autograd_keeps(dtype: str, checkpointing: bool) -> None:
    bf16, batch = dtype == "bfloat16", torch.randint(0, 64, (4, 128))
    step = replace(STEP, sequences=4, tokens=128, dtype=dtype, mixed_precision=bf16)
    step = replace(step, gradient_checkpointing=checkpointing)
    measured, estimated = [], []
    for layers in (2, 6):  # What isn't of the blocks is the same in both.
        config = LlamaConfig(
            vocab_size=64, hidden_size=128, intermediate_size=384, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2,
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(getattr(torch, dtype)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        measured.append(saved_bytes(model, batch, bf16=bf16))
        shape = ModelShape(0, 0, 0, 128, 384, 64, layers, 4, 64)
        estimated.append(estimate_memory(shape, step, ALONE).activations)
    assert measured[1] - measured[0] == pytest.approx(estimated[1] - estimated[0], rel=0.05)


class StatesCallback(TrainerCallback):
    """Counts what is held when the optimizer has made a step, before gradients are dropped."""

    def __init__(self) -> None:
        self.weights = self.gradients = self.optimizer = 0

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.weights = sum(weight.nbytes for weight in model.parameters())
        self.gradients = sum(weight.grad.nbytes for weight in trained)
        self.optimizer = sum(
            value.nbytes
            for states in optimizer.optimizer.state.values()
            for name, value in states.items()
            if name != "step"
        )


@pytest.mark.parametrize(
    ("dtype", "lora"),
    [("float32", None), ("bfloat16", None), ("bfloat16", {"r": 4, "target_modules": "all-linear"})],
)
def test_a_training_holds_what_is_estimated_and_saves_it(
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    dtype: str,
    lora: dict[str, object] | None,
) -> None:
    random_model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    counted = StatesCallback()
    trainer = ColdStartTrainer(
        model=random_model,
        args=SFTConfig(
            str(tmp_path / "run"),
            max_steps=1,
            save_steps=1,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            report_to="none",
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}] * 8),
        processing_class=tokenizer,
        callbacks=[counted],
        peft_config=None if lora is None else LoraConfig(**lora, task_type="CAUSAL_LM"),
    )
    trainer.train()
    shape = read_shape(tmp_path / "config.json", None if lora is None else lora)
    step = replace(STEP, dtype=dtype, mixed_precision=dtype == "bfloat16")
    estimate = estimate_memory(shape, step, ALONE)
    if lora is None:
        assert counted.weights == estimate.weights == model_bytes(shape, dtype)
    assert counted.weights == pytest.approx(estimate.weights, rel=0.02)
    assert (counted.gradients, counted.optimizer) == (estimate.gradients, estimate.optimizer)
    names = ("optimizer.pt", "adapter_model.safetensors" if lora else "model.safetensors")
    saved = sum((tmp_path / "run" / "checkpoint-1" / name).stat().st_size for name in names)
    assert saved == pytest.approx(checkpoint_bytes(shape, step, ALONE), rel=0.05, abs=40_000)


def test_nothing_is_for_nothing() -> None:
    assert estimate_memory(SEVEN_B, STEP, ALONE).runtime == RUNTIME

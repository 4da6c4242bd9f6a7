"""On a GPU: FlashAttention, bfloat16 and colocated vLLM against the plain path.

They need the `gpu` extra. Each function that trains takes a device, so that all but the kernels can
be tried without a GPU.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_cold_start
import tiny_training
import torch
from peft import LoraConfig
from tiny_training import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.gpu

# bfloat16 has 8 bits: what is computed in another order may differ in the last of them.
ROUNDING = 2**-8


@pytest.fixture
def gpu() -> str:
    """The device's name."""
    if not torch.cuda.is_available():
        pytest.fail("no GPU found, which tests marked gpu need: run make test or make test-slow")
    missing = [name for name in ("flash_attn", "vllm") if find_spec(name) is None]
    if missing:
        pytest.fail(
            f"{', '.join(missing)}: not installed, expected the gpu extra of pyproject.toml"
        )
    return "cuda"


def cold_start(
    folder: Path, device: str, attention: str, **changes: Any
) -> tuple[list[float], torch.Tensor]:
    """Losses of each step, and all of their gradients in one float32 vector."""
    run = tiny_cold_start.Run(str(folder), examples=7, per_device_batch=3, accumulation=2)
    trainer, recorder = tiny_cold_start.make_trainer(run, use_cpu=device == "cpu", **changes)
    trainer.model.set_attn_implementation(attention)
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    flat = [own.flatten() for step in recorder.steps for own in step.values()]
    return losses, torch.cat(flat).float()


def assert_same_but_for_rounding(
    found: tuple[list[float], torch.Tensor], expected: tuple[list[float], torch.Tensor]
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=ROUNDING)
    assert not torch.equal(found[1], expected[1])
    assert torch.cosine_similarity(found[1], expected[1], dim=0) > 0.99


def test_bfloat16_is_float32_but_for_rounding(gpu: str, tmp_path: Path) -> None:
    found = cold_start(tmp_path / "found", gpu, "sdpa", bf16=True)
    assert_same_but_for_rounding(found, cold_start(tmp_path / "plain", gpu, "sdpa", bf16=False))


@pytest.mark.parametrize("padding_free", [False, True])
def test_flash_attention_is_sdpa_but_for_rounding(
    gpu: str, tmp_path: Path, padding_free: bool
) -> None:
    found = cold_start(
        tmp_path / "found", gpu, "flash_attention_2", bf16=True, padding_free=padding_free
    )
    assert_same_but_for_rounding(found, cold_start(tmp_path / "plain", gpu, "sdpa", bf16=True))


def adapted_rollouts(folder: Path, device: str) -> tuple[list[dict[str, float]], float]:
    """Log lines of RL with adapters and rollouts by vLLM, and how far the base weights moved."""
    # vLLM loads the model, too, from where it was loaded from.
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    before = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    trainer = tiny_training.make_trainer(
        tiny_training.Run(str(folder), cases=12, rounds=1, epochs=1),
        model=model,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        use_cpu=device == "cpu",
        bf16=True,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.1,
        vllm_max_model_length=512,
        vllm_importance_sampling_mode="token_truncate",
        save_strategy="no",
    )
    trainer.train()
    base = trainer.model.get_base_model().state_dict()
    moved = max(
        (base[name.replace(".weight", ".base_layer.weight")].cpu() - value).abs().max().item()
        if name.endswith("_proj.weight")
        else (base[name].cpu() - value).abs().max().item()
        for name, value in before.items()
    )
    return [entry for entry in trainer.state.log_history if "reward" in entry], moved


def test_vllm_rolls_out_adapters_as_they_are_trained(gpu: str, tmp_path: Path) -> None:
    steps, moved = adapted_rollouts(tmp_path, gpu)
    assert len(steps) == 3
    assert moved == 0.0
    for step in steps:
        assert step["sampling/raw_ratio/mean"] == pytest.approx(1.0, abs=0.02)
        assert step["grad_norm"] > 0.0

"""On a GPU: bfloat16, shared prompts and colocated vLLM against the plain path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import tiny
from tests.training.test_launches import check_adapters_with_vllm

pytestmark = pytest.mark.gpu

# bfloat16 has 8 bits: what is computed in another order may differ in the last of them.
ROUNDING = {"rel": 2**-6, "abs": 2**-8}
GPU = {"use_cpu": False, "save_strategy": "no", "optim": "sgd", "learning_rate": 0.1}


def figures(trainer, name):
    trainer.train()
    return [line[name] for line in trainer.state.log_history if "loss" in line]


def test_bfloat16_is_float32_but_for_rounding(tmp_path: Path) -> None:
    one, two = (
        figures(tiny.cold_start(str(tmp_path / str(bf16)), bf16=bf16, **GPU), "loss")
        for bf16 in (True, False)
    )
    assert one == pytest.approx(two, **ROUNDING)


def test_shared_prompts_are_plain_ones_but_for_rounding(tmp_path: Path) -> None:
    one, two = (
        figures(
            tiny.rl(str(tmp_path / str(share)), share_prompts=share, bf16=True, max_steps=4, **GPU),
            "grad_norm",
        )
        for share in (True, False)
    )
    assert one == pytest.approx(two, rel=0.02)


def test_adapters_train_with_colocated_vllm(tmp_path: Path) -> None:
    found = tiny.result("rl", tmp_path, "gpu", **tiny.VLLM, use_cpu=False)
    check_adapters_with_vllm(found)

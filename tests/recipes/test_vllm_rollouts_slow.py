"""RL with vLLM in the training process, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from alignxplore_trl.run.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_each_rollout_is_one_of_the_weights_that_are_trained(
    assets: Path, train_in_whole_environment: Callable[..., Path], peft: str
) -> None:
    folder = train_in_whole_environment(
        "cpu", "trainer.use_vllm=true", "trainer.max_steps=6", "trainer.save_steps=6",
        "trainer.per_device_train_batch_size=16", f"peft={peft}",
    )  # fmt: skip
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert len(steps) == 6
    for row in steps:
        assert row["sampling/raw_ratio/max"] == pytest.approx(1.0, abs=1e-3)
        assert row["sampling/raw_ratio/min"] == pytest.approx(1.0, abs=1e-3)
        assert row["sampling/truncated_share"] == 0.0
    # So far that rollouts of the weights before would be told apart.
    trained = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    before = AutoModelForCausalLM.from_pretrained(assets / "backbone").state_dict()
    moved = max((trained[name] - value).abs().max().item() for name, value in before.items())
    assert moved > 0.01

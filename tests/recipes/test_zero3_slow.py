"""RL under ZeRO-3 on two CPU processes, by the file that `LAUNCH=zero3` starts eight cards with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignxplore_trl.run.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_what_is_saved_is_a_whole_model_that_was_trained(
    assets: Path, train_in_whole_environment: Callable[..., Path], peft: str
) -> None:
    folder = train_in_whole_environment(
        "zero3", "launch=zero3", "launch.num_processes=2", "launch.use_cpu=true",
        "trainer.max_steps=4", "trainer.save_steps=4", "trainer.per_device_train_batch_size=8",
        f"peft={peft}", flags=("--num_processes=2",),
    )  # fmt: skip
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert len(steps) == 4
    assert any(row["reward_std"] > 0 for row in steps)
    trained = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    before = AutoModelForCausalLM.from_pretrained(assets / "backbone").state_dict()
    assert trained.keys() == before.keys()
    for name, value in before.items():
        assert trained[name].shape == value.shape
        assert trained[name].isfinite().all()
    moved = {name for name, value in before.items() if not torch.equal(trained[name], value)}
    assert any("down_proj" in name for name in moved)
    # Adapters stand on linear layers alone.
    assert any("norm" in name for name in moved) == (peft == "none")

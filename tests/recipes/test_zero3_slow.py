"""RL under ZeRO-3 on two CPU processes, by the file that `LAUNCH=zero3` starts eight cards with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignxplore_trl.run.metrics import read_metrics
from tests.vllm_on_cpu import ROOT, whole_python

OVERRIDES = (
    "setting=streaming",
    "start=backbone",
    "data.counts={cold_start: 1, rl: 24, validation: 1, test: 1}",
    "judge.minimum_label_mass=0.0",
    "preflight.skip=[judge]",
    "model.max_completion_tokens=24",
    "trainer.max_steps=4",
    "trainer.save_steps=4",
    "trainer.per_device_train_batch_size=8",
    "trainer.learning_rate=0.01",
    "trainer.warmup_steps=0",
    "tracking=none",
)
LAUNCH = ("launch=zero3", "launch.num_processes=2", "launch.use_cpu=true")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_what_is_saved_is_a_whole_model_that_was_trained(
    tmp_path: Path, assets: Path, run: Callable[..., None], peft: str
) -> None:
    run("prepare", tmp_path, "--for", "rl", *OVERRIDES)
    accelerate = ["-m", "accelerate.commands.launch", "--quiet", "--num_processes=2",
                  "--config_file=conf/launch/accelerate/zero3.yaml"]  # fmt: skip
    paths = (f"paths.assets={assets}", f"paths.outputs={tmp_path}")
    command = ["recipes/rl.py", *OVERRIDES, *LAUNCH, f"peft={peft}", *paths, "run_name=run"]
    subprocess.run(
        [str(whole_python()), *accelerate, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        check=True,
    )
    folder = tmp_path / "rl" / "run"
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

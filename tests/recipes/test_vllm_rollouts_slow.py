"""RL with vLLM in the training process, on the CPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
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
    "trainer.use_vllm=true",
    "trainer.max_steps=6",
    "trainer.save_steps=6",
    "trainer.per_device_train_batch_size=16",
    # Far enough each step that rollouts of the weights before would be told apart.
    "trainer.learning_rate=0.01",
    "trainer.warmup_steps=0",
    "tracking=none",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_each_rollout_is_one_of_the_weights_that_are_trained(
    tmp_path: Path, assets: Path, run: Callable[..., None], peft: str
) -> None:
    paths = (f"paths.assets={assets}", f"paths.outputs={tmp_path}")
    run("prepare", tmp_path, "--for", "rl", *OVERRIDES)
    accelerate = ["-m", "accelerate.commands.launch", "--quiet",
                  "--config_file", "conf/launch/accelerate/cpu.yaml"]  # fmt: skip
    command = ["recipes/rl.py", *OVERRIDES, f"peft={peft}", *paths, "run_name=run"]
    subprocess.run(
        [str(whole_python()), *accelerate, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        check=True,
    )
    folder = tmp_path / "rl" / "run"
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert len(steps) == 6
    for row in steps:
        assert row["sampling/raw_ratio/max"] == pytest.approx(1.0, abs=1e-3)
        assert row["sampling/raw_ratio/min"] == pytest.approx(1.0, abs=1e-3)
        assert row["sampling/truncated_share"] == 0.0
    trained = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    before = AutoModelForCausalLM.from_pretrained(assets / "backbone").state_dict()
    moved = max((trained[name] - value).abs().max().item() for name, value in before.items())
    assert moved > 0.01

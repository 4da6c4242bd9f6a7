"""Several processes, shards, kills and real vLLM: each run ends as one quiet process does."""

from __future__ import annotations

import pytest
import torch
from transformers import set_seed

from tests.training import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SGD = {"optim": "sgd", "learning_rate": 0.1, "save_strategy": "no"}
# Steps of two micro-batches; a process of several has its part of each.
# Offloaded, DeepSpeed takes its own Adam for any; with so large an epsilon it is all but SGD.
ADAM = {"optim": "adamw_torch", "adam_epsilon": 0.1, "learning_rate": 0.1, "weight_decay": 0.0}
COLD_START = {"count": 40, "gradient_accumulation_steps": 2, **SGD, **ADAM}
RL = {"max_steps": 10, "cases": 13, "fewer": 5, **SGD}
BATCHES = {"cold_start": 4, "rl": 8}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process ends at, without shared prompts."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {"cold_start": COLD_START, "rl": {**RL, "share_prompts": False}}
    return {
        what: tiny.result(what, folder / what, per_device_train_batch_size=BATCHES[what], **run)
        for what, run in runs.items()
    }


@pytest.mark.parametrize(
    ("what", "config"),
    [
        ("cold_start", "cpu"),
        ("cold_start", "zero3_offload"),
        ("cold_start", "fsdp2"),
        ("rl", "cpu"),
        ("rl", "zero2"),
        ("rl", "zero3"),
    ],
)
def test_two_processes_and_shards_of_them_train_on_what_one_trains_on(
    tmp_path, alone, what, config
):
    """Of RL with shared prompts; ten steps of SGD sum up all gradients."""
    tiny.model().save_pretrained(tmp_path / "judge")
    run = {"rl": {**RL, "share_prompts": True}, "cold_start": COLD_START}[what]
    size = BATCHES[what] // 2
    together = tiny.result(
        what, tmp_path, config, 2, tiny.WHOLE,
        per_device_train_batch_size=size, judge=str(tmp_path / "judge"), **run,
    )  # fmt: skip
    set_seed(0)
    before = tiny.model().state_dict()
    for name, weight in alone[what]["weights"].items():
        assert (weight - before[name]).abs().max() > 1e-3, name
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-4, atol=1e-5)
    for one, two in zip(alone[what]["log"], together["log"], strict=True):
        for key in ("loss", "reward", "num_tokens", "groups_that_teach_nothing/round_1"):
            assert two.get(key) == pytest.approx(one.get(key), abs=1e-5), key


@pytest.mark.parametrize(
    ("processes", "credit", "kills"),
    [
        # Before any checkpoint; between rounds; in the second epoch between rounds; while saving.
        (
            1,
            0.0,
            [({"kill": 0}, None), ({"kill": 1}, 1), ({"kill": 5}, 5), ({"kill_in_save": 7}, 6)],
        ),
        (1, 0.9, [({"kill": 5}, 5)]),
        (2, 0.0, [({"kill_in_save": 6}, 5)]),
    ],
)
def test_kills_leave_no_trace(tmp_path, processes, credit, kills):
    run = {"kind": "framed", "num_train_epochs": 2, "round_credit": credit, "share_prompts": False}
    run |= {"per_device_train_batch_size": 8 if credit else 8 // processes}
    whole = tiny.result("rl", tmp_path / "whole", "cpu", processes, **run)
    for kill, last in kills:
        ended = tiny.launch("rl", tmp_path / "killed", "cpu", processes, **run, **kill)
        assert ended.returncode != 0
        complete = [
            int(at.parent.name[11:]) for at in tmp_path.glob("killed/checkpoint-*/complete")
        ]
        assert max(complete, default=None) == last, ended.stdout[-3000:]
    resumed = tiny.result("rl", tmp_path / "killed", "cpu", processes, **run)
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
    for file in (tmp_path / "whole/completions").iterdir():
        assert file.read_bytes() == (tmp_path / "killed/completions" / file.name).read_bytes()


def test_adapters_train_with_colocated_vllm_and_leave_the_base_as_it_was(tmp_path):
    found = tiny.result(
        "rl", tmp_path, "cpu", 1, tiny.WHOLE, kind="sampled", rounds=1, max_steps=3,
        use_vllm=True, vllm_mode="colocate", vllm_max_model_length=512, bf16=True,
        vllm_importance_sampling_mode="token_truncate", save_strategy="no",
    )  # fmt: skip
    assert len(found["moved"]) > 10
    assert max(found["moved"]) == 0.0
    lines = [line for line in found["log"] if "loss" in line]
    assert len(lines) == 3
    assert all(line["grad_norm"] > 0 for line in lines)
    ratio = "sampling/importance_sampling_ratio/mean"
    assert all(line[ratio] == pytest.approx(1.0, abs=0.05) for line in lines)
    trained = [weight for name, weight in found["weights"].items() if "lora_B" in name]
    assert all(weight.abs().max() > 0 for weight in trained)

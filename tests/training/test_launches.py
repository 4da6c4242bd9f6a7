"""Several processes, shards, kills and real vLLM: each run ends as one quiet process does."""

from __future__ import annotations

import pytest
import torch

from tests.training import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SGD = {"optim": "sgd", "learning_rate": 0.1, "save_strategy": "no"}
# Steps of two micro-batches; a process of several has its part of each.
# Offloaded, DeepSpeed takes its own Adam for any; with so large an epsilon it is all but SGD.
ADAM = {"optim": "adamw_torch", "adam_epsilon": 0.1, "learning_rate": 0.1, "weight_decay": 0.0}
COLD_START = {"count": 40, "gradient_accumulation_steps": 2, **SGD, **ADAM}
RL = {"max_steps": 10, "cases": 13, "fewer": 5, **SGD}


RUNS = {
    "cold_start": COLD_START,
    "rl": RL,
    "credit": {**RL, "round_credit": 0.9, "per_device_train_batch_size": 8},
}
KINDS = {"cpu": "MULTI_CPU", "fsdp2": "FSDP"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process ends at, without shared prompts."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        what: trained(what, folder / what, "cpu", 1, share=False, **run)
        for what, run in RUNS.items()
    }


def trained(what, folder, config, processes, share, python=tiny.WHOLE, **run):
    """Its micro-batches are divided among the processes, or it makes as many fewer of them."""
    if what == "credit":  # A process holds all rounds of a case.
        run |= {"gradient_accumulation_steps": 4 // processes}
    else:
        size = {"cold_start": 4, "rl": 8}[what] // processes
        run |= {"per_device_train_batch_size": size}
    if what != "cold_start":
        run |= {"share_prompts": share}
    kind = "cold_start" if what == "cold_start" else "rl"
    return tiny.result(kind, folder, config, processes, python, **run)


@pytest.mark.parametrize(
    ("what", "config"),
    [
        ("cold_start", "cpu"),
        ("cold_start", "zero3_offload"),
        ("rl", "cpu"),
        ("rl", "zero2"),
        ("rl", "zero3"),
        ("rl", "fsdp2"),
        ("credit", "cpu"),
    ],
)
def test_two_processes_and_shards_of_them_train_on_what_one_trains_on(
    tmp_path, alone, what, config
):
    """Of RL with shared prompts; ten steps of SGD sum up all gradients."""
    tiny.model().save_pretrained(tmp_path / "judge")
    judge = str(tmp_path / "judge")
    together = trained(what, tmp_path, config, 2, share=True, judge=judge, **RUNS[what])
    assert together["launched"] == KINDS.get(config, "DEEPSPEED")
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
        # Between rounds; in the second epoch between rounds; while saving.
        (1, 0.0, [({"kill": 1}, 1), ({"kill": 5}, 5), ({"kill_in_save": 7}, 6)]),
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
    check_adapters_with_vllm(tiny.result("rl", tmp_path, "cpu", 1, tiny.WHOLE, **tiny.VLLM))


def check_adapters_with_vllm(found):
    assert len(found["moved"]) > 10
    assert max(found["moved"]) == 0.0
    lines = [line for line in found["log"] if "loss" in line]
    assert len(lines) == 3
    assert all(line["grad_norm"] > 0 for line in lines)
    ratio = "sampling/importance_sampling_ratio/mean"
    assert all(line[ratio] == pytest.approx(1.0, abs=0.05) for line in lines)
    trained = [weight for name, weight in found["weights"].items() if "lora_B" in name]
    assert all(weight.abs().max() > 0 for weight in trained)

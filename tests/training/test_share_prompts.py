"""A prompt that a group shares is computed once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from alignxplore_trl.run.errors import UserError
from tests.training import tiny

SGD = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 10}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """On disk, where TRL looks for the reference model."""
    folder = tmp_path_factory.mktemp("backbone")
    tiny.model().save_pretrained(folder)
    return folder


def trained(backbone, folder, share, run):
    policy = LlamaForCausalLM.from_pretrained(backbone)
    trainer = tiny.rl(str(folder), policy=policy, share_prompts=share, **SGD | run)
    gradients = tiny.Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    assert trainer.shares is share
    return trainer, gradients.steps


# One micro-batch a generation batch, where its parts would be shuffled otherwise.
WHOLE = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"loss_type": "dapo", "mask_truncated_completions": True, **WHOLE},
        {"importance_sampling_level": "sequence", "num_iterations": 2, **WHOLE},
        {"beta": 0.1, "gradient_checkpointing": True,
         "peft_config": LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)},
        {"beta": 0.1, "round_credit": 0.9},
    ],
    ids=["grpo", "dapo", "sequence", "lora", "reference"],
)  # fmt: skip
def test_ten_steps_end_at_the_same_weights(tmp_path, backbone, run):
    torch.manual_seed(0)
    plain, one = trained(backbone, tmp_path / "plain", False, run)
    torch.manual_seed(0)
    shared, two = trained(backbone, tmp_path / "shared", True, run)
    assert any(gradient.abs().max() > 1e-3 for step in one for gradient in step.values())
    for first, second in zip(one, two, strict=True):
        whole = torch.cat([gradient.flatten() for gradient in first.values()]).norm()
        for name, gradient in first.items():
            assert (gradient - second[name]).norm() <= 1e-5 * whole + 1e-7, name
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(shared.model.state_dict()[name], weight, rtol=1e-5, atol=1e-5)
    for one, two in zip(plain.state.log_history, shared.state.log_history, strict=True):
        for name in (
            "reward",
            "num_tokens",
            *(("entropy",) if WHOLE.items() <= run.items() else ()),
        ):
            assert one.get(name) == pytest.approx(two.get(name), abs=1e-5), name


def test_a_micro_batch_that_cuts_groups_goes_the_plain_way_or_is_refused(tmp_path, capsys):
    run = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 1}
    trainer = tiny.rl(str(tmp_path), share_prompts="auto", **run)
    trainer.train()
    assert trainer.shares is False
    assert (
        "per_device_train_batch_size 6 is no multiple of 4 generations" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"rl.share_prompts: true found, but .* 6 is no multiple"):
        tiny.rl(str(tmp_path), share_prompts=True, **run).train()


def test_a_model_that_cant_share_goes_the_plain_way(tmp_path, capsys):
    policy = tiny.model()
    policy.set_attn_implementation("eager")
    trainer = tiny.rl(str(tmp_path), policy=policy, share_prompts="auto", max_steps=1)
    trainer.train()
    assert trainer.shares is False
    assert "attn_implementation is eager" in capsys.readouterr().err
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    trainer = tiny.rl(str(tmp_path / "rope"), policy=tiny.model(**dynamic), max_steps=1)
    trainer.train()
    assert trainer.shares is False
    assert trainer.model.config._attn_implementation == "sdpa"
    assert "its rotary embedding depends on the length" in capsys.readouterr().err

"""The policy's model: what it is trained in, what is saved, and how fast it trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model
from alignxplore_trl.training.throughput import Throughput
from tests.training import tiny

SAMPLING = {"max_new_tokens": 32, "temperature": 0.9, "top_p": 0.95, "top_k": 10}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    model = tiny.model()
    model.generation_config.eos_token_id = [tiny.tokenizer().eos_token_id, 7]
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("sharded", "bf16", "adapters", "expected"),
    [
        (False, True, False, torch.float32),
        (False, False, False, torch.float32),
        (True, True, False, torch.bfloat16),
        (True, False, False, torch.float32),
        (False, True, True, torch.bfloat16),
    ],
)
def test_weights_that_nothing_copies_are_trained_in_float32(
    backbone, sharded, bf16, adapters, expected
):
    args = SimpleNamespace(bf16=bf16, deepspeed_plugin=object() if sharded else None)
    model = load_policy(str(backbone), "bfloat16", "sdpa", None, args, adapters)
    assert model.dtype == expected


def test_a_tokenizer_that_loses_tags_is_refused(tmp_path, backbone):
    assert policy_tokenizer(str(backbone)).padding_side == "left"
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    special = [AddedToken("<answer>", special=True)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"<answer> of the .*format is lost"):
        policy_tokenizer(str(tmp_path))


@pytest.mark.parametrize("weights", ["merged", "adapters"])
def test_adapters_are_merged_in_float32_and_rounded_once_or_left_alone(tmp_path, backbone, weights):
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    trainer = tiny.rl(str(tmp_path / "out"), policy=policy, peft_config=lora, max_steps=1)
    target = tmp_path / "model"
    save_model(trainer, tiny.tokenizer(), target, weights, "bfloat16", SAMPLING)
    assert not (target / "training_args.bin").exists()
    generation = GenerationConfig.from_pretrained(target)
    assert generation.eos_token_id == [tiny.tokenizer().eos_token_id, 7]
    assert (generation.temperature, generation.top_k, generation.do_sample) == (0.9, 10, True)
    if weights == "adapters":
        assert (target / "adapter_model.safetensors").exists()
        assert not (target / "model.safetensors").exists()
        return
    saved = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    assert saved.dtype == torch.bfloat16
    layer = trainer.model.base_model.model.model.layers[1].mlp.down_proj
    exact = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()
    found = saved.model.layers[1].mlp.down_proj.weight
    assert torch.equal(found, exact.float().to(torch.bfloat16))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_flops_are_palms_and_the_judges_time_is_its_own(tmp_path, monkeypatch):
    trainer = tiny.cold_start(str(tmp_path), save_strategy="no")
    now = iter([0.0, 1.0, 2.0, 8.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    throughput = Throughput(trainer)
    throughput.peak = 1e6
    throughput.count(torch.tensor([3, 5]))
    throughput.count(torch.tensor([6, 6]), shared=torch.tensor([4]))
    with throughput.judge():
        pass
    found = throughput.measured()
    size = sum(weight.numel() for weight in trainer.model.parameters())
    tokens, squares = 3 + 5 + 6 + 6 - 4, 9 + 25 + 36 + 36 - 16
    flops = 6 * size * tokens + 12 * 2 * 64 * squares
    assert found["throughput/tokens_per_second"] == pytest.approx(20 / 8)
    assert found["throughput/mfu"] == pytest.approx(flops / 8e6)
    assert found["throughput/judge_share"] == pytest.approx(1 / 8)

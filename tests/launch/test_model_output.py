"""What a training leaves loads as any other model, and is what the trainer had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from alignxplore_trl.launch.model_output import merged_model, save_weights

TOKENS = torch.arange(12).reshape(1, -1)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random model in bfloat16, on disk."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def with_adapters(base: Path, dtype: torch.dtype) -> PeftModel:
    """The model with adapters that change it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted.eval()


def trainer_of(model: torch.nn.Module, folder: Path) -> Trainer:
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    return Trainer(model, arguments)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_merged_weights_load_as_a_plain_model_and_say_the_same(base: Path, tmp_path: Path) -> None:
    model = with_adapters(base, torch.float32)
    expected, untrained = logits_of(model), logits_of(model.get_base_model())
    save_weights(trainer_of(model, tmp_path), tmp_path / "model", "merged", torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    torch.testing.assert_close(logits_of(loaded), expected)
    with model.disable_adapter():
        untrained = logits_of(model)
    assert (untrained - expected).abs().max() > 0.01
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in names
    assert "training_args.bin" not in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "model"]


def test_adapters_alone_load_with_their_base_and_say_the_same(base: Path, tmp_path: Path) -> None:
    model = with_adapters(base, torch.float32)
    save_weights(trainer_of(model, tmp_path), tmp_path / "model", "adapters", torch.float32)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert not {"model.safetensors", "training_args.bin"} & names
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(logits_of(loaded), logits_of(model))


def test_all_weights_are_saved_as_they_are(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    save_weights(trainer_of(model, tmp_path), tmp_path / "model", "merged", torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == torch.bfloat16
    for one, other in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_merging_rounds_once(base: Path, tmp_path: Path) -> None:
    """Each weight is the bfloat16 nearest to the exact sum; merged in bfloat16, many aren't."""
    model = with_adapters(base, torch.bfloat16)
    model.save_pretrained(tmp_path / "adapters")
    exact = {
        f"{name}.weight".removeprefix("base_model.model."): (
            layer.base_layer.weight.double()
            + layer.scaling["default"]
            * layer.lora_B["default"].weight.double()
            @ layer.lora_A["default"].weight.double()
        )
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }
    assert len(exact) == 14
    ours = merged_model(tmp_path / "adapters", torch.bfloat16).state_dict()
    in_bfloat16 = model.merge_and_unload(safe_merge=True).state_dict()

    def share_rounded_otherwise(weights: dict[str, torch.Tensor]) -> float:
        different = [
            (weights[name] != value.to(torch.bfloat16)).float().mean()
            for name, value in exact.items()
        ]
        return float(torch.stack(different).mean())

    assert {each.dtype for each in ours.values()} == {torch.bfloat16}
    assert share_rounded_otherwise(ours) < 0.001
    assert share_rounded_otherwise(in_bfloat16) > 0.01

"""The small models that ship do what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.tiny_models import accuracy, generation_accuracy
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import TAGS

ASSETS = Path(__file__).parents[1] / "assets"
NAMES = ("backbone", "judge", "teacher", "test_judge")
CASES = World(seed=123).cases("validation", 300)


def test_the_weights_are_small_together() -> None:
    assert sorted(path.name for path in ASSETS.iterdir()) == sorted(NAMES)
    assert sum(file.stat().st_size for file in ASSETS.glob("*/*.safetensors")) <= 12_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_is_one_that_vllm_serves_on_a_cpu(name: str) -> None:
    config = json.loads((ASSETS / name / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] // config["num_attention_heads"] in (32, 64)


@pytest.mark.parametrize("name", NAMES)
def test_tags_are_ordinary_tokens_and_nothing_is_unknown(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    assert not set(TAGS) & set(tokenizer.all_special_tokens)
    text = "</think> <answer> naïve 🦊 \u202e</answer>"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("name", NAMES)
def test_eight_rounds_of_four_signals_fit_at_once(name: str, prompts: PromptSet) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    [case] = World(seed=1, signals_per_user=32).cases("test", 1)
    length = len(tokenizer(prompts.inference(case.signals, case.description))["input_ids"])
    context = json.loads((ASSETS / name / "config.json").read_text())["max_position_embeddings"]
    assert length + 512 <= context


@pytest.mark.parametrize("name", ["judge", "test_judge"])
def test_judges_follow_the_true_description_and_know_nothing_without_one(
    name: str, prompts: PromptSet
) -> None:
    judge = LocalJudge.from_folder(ASSETS / name, prompts, dtype="float32", max_batch_tokens=16384)
    assert accuracy(judge, CASES, lambda case: case.description) >= 0.95
    assert 0.4 <= accuracy(judge, CASES, lambda case: None) <= 0.6


def test_the_training_judge_serves_as_the_generator_of_r_gen(prompts: PromptSet) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "judge")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "judge")
    assert generation_accuracy(model, tokenizer, prompts, CASES) >= 0.8

"""A trained model's folder says how it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GenerationConfig

from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.inference.how_to_ask import (
    PromptSettings,
    read_how_to_ask,
    save_how_to_ask,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Post
from alignxplore_trl.text.rendering import SHIPPED_PROMPTS, PromptSet

SETTINGS = PromptSettings(max_prompt_tokens=320, signals_per_round=4, rounds=2)
DRAWN = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_new_tokens": 96}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_how_to_ask(tmp_path, PromptSet("compact"), SETTINGS)
    GenerationConfig(**DRAWN).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_gives_back_what_was_saved(folder: Path) -> None:
    asked = read_how_to_ask(folder)
    assert asked.settings == SETTINGS
    assert asked.sampling == SamplingSettings(96, 0.9, 0.95, 10)
    signals = [Post("a post", "a comment")]
    assert asked.prompts.inference(signals, "d") == PromptSet("compact").inference(signals, "d")


def test_templates_are_those_of_the_training_and_not_of_today(folder: Path) -> None:
    names = {file.name for file in (folder / "prompts").iterdir()}
    assert names == {file.name for file in (SHIPPED_PROMPTS / "compact").glob("*.jinja")}
    template = folder / "prompts" / "inference.jinja"
    template.write_text(f"Once upon a time.\n{template.read_text()}")
    asked = read_how_to_ask(folder)
    assert asked.prompts.inference([Post("a", "b")], None).startswith("Once upon a time.")


def test_a_model_that_decodes_greedily_stays_greedy(folder: Path) -> None:
    GenerationConfig(do_sample=False, max_new_tokens=96).save_pretrained(folder)
    assert read_how_to_ask(folder).sampling == SamplingSettings(96, 0.0, 1.0, None)


def test_a_folder_of_another_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no describer\.json, no prompts, no generation_"):
        read_how_to_ask(tmp_path)


def test_settings_that_cannot_be_read_are_told(folder: Path) -> None:
    (folder / "describer.json").write_text('{"rounds": 1}')
    with pytest.raises(UserError, match=r"describer\.json: can't be read"):
        read_how_to_ask(folder)


def test_what_is_no_folder_and_no_name_is_told() -> None:
    with pytest.raises(UserError, match="found no such folder, and it is no name of the Hub"):
        read_how_to_ask("/no/where/at all")

"""Sampling is a function of prompts and seed, and rounds carry the last good description."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.data.world import World
from alignxplore_trl.inference.describing import (
    Completion,
    Describer,
    SamplingSettings,
    describe_cases,
)
from alignxplore_trl.text.parsing import FormatProblem
from alignxplore_trl.text.rendering import PromptSet


@pytest.fixture
def describer(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> Describer:
    return Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=12),
        max_prompt_tokens=400,
        batch_size=3,
    )


class ScriptedDescriber(Describer):
    """Writes what it is told, round after round, and remembers what it was asked."""

    script: list[list[str]]
    asked: list[list[str]]

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion]:
        self.asked.append(list(prompts))
        return [Completion(text, 5, True) for text in self.script[len(self.asked) - 1]]


def test_the_same_seed_writes_the_same_and_leaves_the_generator_alone(describer: Describer) -> None:
    prompts = ["<post> a<think>", "<post> a b c d<think>", "<think>", "x<think>"]
    before = torch.get_rng_state()
    first = describer.complete(prompts, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert describer.complete(prompts, seed=5) == first
    assert describer.complete(prompts, seed=6) != first
    assert all(completion.tokens <= 12 for completion in first)


def test_an_end_of_text_ends_the_completion(describer: Describer) -> None:
    end = describer.tokenizer.eos_token_id
    ids = describer.tokenizer(" brief over")["input_ids"]
    assert describer._completion([*ids, end, *ids]) == Completion(" brief over", len(ids), True)
    assert not describer._completion(ids).ended


def test_rounds_read_new_signals_and_the_last_well_formed_description(describer: Describer) -> None:
    scripted = ScriptedDescriber.__new__(ScriptedDescriber)
    scripted.__dict__.update(vars(describer))
    scripted.asked = []
    good = " r; </think> <answer> prefers {} </answer>"
    scripted.script = [
        [good.format("brief"), "nothing"],
        ["broken", good.format("warm")],
        [good.format("formal"), good.format("cold </answer>")],
    ]
    cases = World(0, signals_per_user=6).cases("test", 2)
    first, second = describe_cases(scripted, cases, per_round=2, rounds=3, seed=0)

    assert [record.earlier for record in first.rounds] == [None, "prefers brief", "prefers brief"]
    assert [record.earlier for record in second.rounds] == [None, None, "prefers warm"]
    assert first.description == "prefers formal"
    assert second.description is None
    assert isinstance(second.outcome, FormatProblem)
    assert first.tokens == 15
    assert "<earlier> prefers brief" in scripted.asked[2][0]
    assert "<earlier>" not in scripted.asked[1][1]
    for number in range(3):
        own = cases[0].signals[2 * number : 2 * number + 2]
        assert scripted.asked[number][0] == scripted.prompts.inference(
            own, first.rounds[number].earlier
        )


def test_too_few_signals_are_refused(describer: Describer) -> None:
    with pytest.raises(ValueError, match="3 rounds of 4"):
        describe_cases(describer, World(0).cases("test", 1), per_round=4, rounds=3, seed=0)

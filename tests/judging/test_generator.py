"""Response log-probabilities against one plain forward pass per row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from alignxplore_trl.judging.generator import Continuation, LocalGenerator
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import Shape, build_model

SHIPPED_JUDGE = Path(__file__).parents[2] / "assets" / "judge"
words = st.lists(
    st.sampled_from(["fixing", "bikes", "haha", "furthermore", "é", "\n", "</post>"]), max_size=6
).map(" ".join)
rows = st.builds(Continuation, words, st.none() | words, words)


@pytest.fixture(scope="module", params=["compact", "default"])
def any_prompts(request: pytest.FixtureRequest) -> PromptSet:
    return PromptSet(request.param)


@pytest.fixture(scope="module")
def model(tokenizer):
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    return build_model(shape, tokenizer, seed=0).eval()


def plain(model, tokenizer: PreTrainedTokenizerBase, prompts: PromptSet, row: Continuation):
    """The equation, term by term: log p of each token of the response after all before it."""
    head = tokenizer(prompts.reply(row.post, row.description))["input_ids"]
    tail = tokenizer(f" {row.response}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0]
    return [logits[len(head) + i - 1].log_softmax(-1)[token].item() for i, token in enumerate(tail)]


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(rows, max_size=8), budget=st.sampled_from([1, 200, 10_000]))
def test_tokens_of_the_response_are_scored_as_by_a_plain_pass(
    model, tokenizer, any_prompts, batch, budget
) -> None:
    generator = LocalGenerator(model, tokenizer, any_prompts, max_batch_tokens=budget)
    found = generator.log_probabilities(batch)
    assert len(found) == len(batch)
    for row, values in zip(batch, found, strict=True):
        assert values == pytest.approx(plain(model, tokenizer, any_prompts, row), abs=1e-4)


def test_rows_of_one_prompt_share_it_and_equal_rows_are_read_once(
    model, tokenizer, prompts
) -> None:
    post, description = "fixing many bikes " * 5, "prefers brief and warm answers " * 5
    batch = [Continuation(post, description, response) for response in ("haha", "dear, dear")]
    head = len(tokenizer(prompts.reply(post, description))["input_ids"])
    tails = [len(tokenizer(f" {row.response}")["input_ids"]) for row in batch]
    generator = LocalGenerator(model, tokenizer, prompts, max_batch_tokens=4096)
    generator.log_probabilities(batch * 3)
    measured = generator.take_measurements()
    # The prompt but its last token once; that token and the response but its last, for each.
    assert measured.tokens == head - 1 + sum(tails)
    assert (measured.questions, measured.lookups, measured.hits) == (6, 6, 4)
    assert measured.requests == len(measured.latencies) == 2
    assert generator.take_measurements().questions == 0


def test_a_row_beyond_the_context_is_none_and_counted(model, tokenizer, prompts) -> None:
    generator = LocalGenerator(model, tokenizer, prompts, max_batch_tokens=4096)
    endless = Continuation("p", None, "why " * 600)
    found = generator.log_probabilities([endless, Continuation("p", None, "yes")])
    assert found[0] is None
    assert found[1] is not None
    assert generator.take_measurements().unanswered == {"too_long": 1}


def test_the_longest_row_that_fits_the_context_is_answered(model, tokenizer, prompts) -> None:
    generator = LocalGenerator(model, tokenizer, prompts, max_batch_tokens=4096)
    head = len(tokenizer(prompts.reply("p", None))["input_ids"])
    longest = 512 - head + 1
    responses = [" ".join(["haha"] * count) for count in (longest, longest + 1)]
    assert [len(tokenizer(f" {own}")["input_ids"]) for own in responses] == [longest, longest + 1]
    found = generator.log_probabilities([Continuation("p", None, own) for own in responses])
    assert [own is None for own in found] == [False, True]


def test_the_shipped_judge_as_a_generator(prompts) -> None:
    generator = LocalGenerator.from_folder(
        SHIPPED_JUDGE, prompts, dtype="float32", max_batch_tokens=2048
    )
    model = AutoModelForCausalLM.from_pretrained(SHIPPED_JUDGE)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_JUDGE)
    batch = [
        Continuation("fixing bikes outside", description, response)
        for description in (None, "prefers brief, playful", "prefers detailed")
        for response in ("tldr, haha", "furthermore, gravely, study")
    ]
    for row, values in zip(batch, generator.log_probabilities(batch), strict=True):
        assert values == pytest.approx(plain(model, tokenizer, prompts, row), abs=1e-4)

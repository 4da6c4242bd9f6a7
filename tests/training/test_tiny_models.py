"""The trainer of the small models: its loss against the formula, its tokenizer against any text."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.data.world import WORDINGS
from alignxplore_trl.data.world_documents import Skill, attitudes_of, every_word, inference_document
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import (
    END_OF_TEXT,
    TAGS,
    Stage,
    document_loss,
    document_writers,
    encode_documents,
    train,
)


@given(text=st.text())
def test_no_text_is_unknown_to_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tags_are_single_tokens_that_decoding_keeps(tokenizer: PreTrainedTokenizerFast) -> None:
    for tag in TAGS:
        ids = tokenizer(f" a{tag} b")["input_ids"]
        assert tokenizer.convert_tokens_to_ids(tag) in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == f" a{tag} b"


def test_every_word_of_the_world_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    split = [word for word in every_word().split() if len(tokenizer(f" {word}")["input_ids"]) > 1]
    assert split == []


def test_loss_is_the_mean_over_documents_of_the_mean_over_taught_tokens(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    draw = random.Random(0)
    documents = [write(draw) for write in document_writers(prompts, Skill()).values()]
    loss, _ = document_loss(random_model, *encode_documents(tokenizer, documents))
    expected = []
    for document in documents:
        ids, taught = [], []
        for text, learned in document:
            tokens = tokenizer(text)["input_ids"]
            ids += tokens
            taught += [learned] * len(tokens)
        logits = random_model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nll = [-logits[i - 1, ids[i]] for i in range(1, len(ids)) if taught[i]]
        expected.append(torch.stack(nll).mean())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_training_lowers_the_loss_and_is_a_function_of_its_seed(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    start = {name: value.clone() for name, value in random_model.state_dict().items()}
    losses, weights = [], []
    for _ in range(2):
        random_model.load_state_dict(start)
        train(
            random_model,
            tokenizer,
            prompts,
            [Stage(30, {"named": 1.0})],
            skill=Skill(),
            learning_rate=2e-3,
            batch_size=8,
            seed=3,
            report=lambda step, accuracy: None,
        )
        documents = [document_writers(prompts, Skill())["named"](random.Random(9))]
        with torch.no_grad():
            losses.append(document_loss(random_model, *encode_documents(tokenizer, documents))[0])
        weights.append(random_model.model.embed_tokens.weight.clone())
    assert losses[0] < 5.0
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("guided", [True, False])
def test_a_writer_of_full_skill_is_right_and_well_formed(prompts: PromptSet, guided: bool) -> None:
    for seed in range(50):
        [_, (completion, _)] = inference_document(
            random.Random(seed), prompts, Skill(), END_OF_TEXT, signals_read=4, guided=guided
        )
        parsed = parse_completion(completion.removesuffix(END_OF_TEXT))
        assert isinstance(parsed, Inference)
        assert parsed.reasoning.count(" over ") == 4
        poles = parsed.description.removeprefix("prefers ").split(", ")
        assert len(poles) == len(set(poles))
        assert not any(set(pair) <= set(poles) for pair in map(tuple, WORDINGS.values()))


def test_a_writer_without_format_skill_is_never_well_formed(prompts: PromptSet) -> None:
    for seed in range(50):
        [_, (completion, _)] = inference_document(
            random.Random(seed),
            prompts,
            Skill(formats=0.0),
            END_OF_TEXT,
            signals_read=2,
            guided=False,
        )
        assert not isinstance(parse_completion(completion.removesuffix(END_OF_TEXT)), Inference)


def test_contradictions_cancel_out_and_repetitions_count_once() -> None:
    assert attitudes_of("prefers brief, detailed, warm, warm") == {"warm": 1, "blunt": -1}

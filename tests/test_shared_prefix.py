"""Rows with shared prefixes against one plain pass per text: log-probabilities and gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alignxplore_trl.shared_prefix import ATTENTION, row_of, why_not

torch.set_num_threads(1)
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": None},
}
# Unequal prompts, one of a single token; continuations of one token, of many, and none at all.
PROMPTS = {(3, 4, 5, 6, 7): [[8, 9, 10], [9], [11, 12, 13, 14, 15, 16]], (20,): [[21, 22], []]}


def random_model(family: str, attention: str = ATTENTION, **changes: object) -> PreTrainedModel:
    config = AutoConfig.for_model(family, **SIZES | FAMILIES.get(family, {}) | changes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def of_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_those_of_plain_passes(family: str) -> None:
    shared, plain = random_model(family), random_model(family, "sdpa")
    assert why_not(shared) == ""
    texts = [
        ([*p, *own], len(own)) for p, continuations in PROMPTS.items() for own in continuations
    ]
    row = row_of(texts, [0, 4, 4, 0, 0])
    found = of_labels(shared(**row.inputs).logits[0], row.labels[0].clamp(min=0))
    places = iter(row.texts)
    for prompt, continuations in PROMPTS.items():
        for own in continuations:
            part = found[slice(*next(places))]
            assert len(part) == len(own)
            if own:
                ids = torch.tensor([[*prompt, *own]])
                alone = of_labels(plain(ids[:, :-1]).logits[0], ids[0, 1:])[len(prompt) - 1 :]
                torch.testing.assert_close(part, alone, atol=2e-6, rtol=1e-5)
                part.mean().backward(retain_graph=True)
                alone.mean().backward()
    for one, other in zip(shared.parameters(), plain.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-5 * other.grad.norm()


@pytest.mark.parametrize(("least", "tokens"), [(1, 13), (2, 14), (6, 28)])
def test_prefixes_may_lie_within_prefixes(least: int, tokens: int) -> None:
    model = random_model("llama")
    begin = [3, 4, 5, 7, 8]
    texts = [[*begin, 9, 5], [*begin, 3], [*begin, 4, 6], [*begin, 4, 6, 6], [3, 4, 5, 5, 4]]
    scored = [2, 1, 2, 2, 2]
    row = row_of([*zip(texts, scored, strict=True)], [0, 4, 4, 5, 2], least)
    assert row.ids.shape[1] == tokens
    logits = model(**row.inputs).logits[0]
    for text, count, place in zip(texts, scored, row.texts, strict=True):
        alone = model(torch.tensor([text[:-1]])).logits[0][-count:]
        torch.testing.assert_close(logits[slice(*place)], alone, atol=1e-5, rtol=1e-5)
        assert row.labels[0, slice(*place)].tolist() == text[-count:]


def test_other_passes_of_such_a_model_are_those_of_sdpa() -> None:
    shared, plain = random_model("llama"), random_model("llama", "sdpa")
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 3]]), torch.tensor([[0, 0, 1, 1], [1] * 4])
    for model in (shared, plain):
        model.generation_config.update(pad_token_id=0, eos_token_id=None)
    one, other = (
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        for model in (shared, plain)
    )
    assert torch.equal(one, other)

"""Response log-probabilities against one plain forward pass per row."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.judging.generator import Continuation, response_log_probabilities
from alignxplore_trl.text.rendering import PromptSet

ROWS = [
    Continuation("fixing bikes", "prefers brief", "tldr, haha"),
    Continuation("fixing bikes", None, "tldr, haha"),
    Continuation("a post that is a good deal longer than that", "prefers warm", "dear"),
    Continuation("p", "prefers formal, warm", "hereby, esteemed, sincerely, study, source"),
]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sums_over_the_tokens_of_the_response(
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    batch_size: int,
) -> None:
    found = response_log_probabilities(random_model, tokenizer, prompts, ROWS, batch_size)
    for row, value in zip(ROWS, found, strict=True):
        head = tokenizer(prompts.reply(row.post, row.description))["input_ids"]
        tail = tokenizer(f" {row.response}")["input_ids"]
        with torch.no_grad():
            logits = random_model(input_ids=torch.tensor([head + tail])).logits[0]
        expected = sum(
            logits[len(head) + i - 1].log_softmax(-1)[token].item() for i, token in enumerate(tail)
        )
        assert value == pytest.approx(expected, abs=1e-4)

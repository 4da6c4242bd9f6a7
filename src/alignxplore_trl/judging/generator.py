"""A generator's log-probabilities of responses, from which R_gen is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.text.rendering import PromptSet


@dataclass(frozen=True)
class Continuation:
    """A response to a post, under a description or without one."""

    post: str
    description: str | None
    response: str


class Generator(Protocol):
    """A frozen language model that says how probable responses are."""

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        """log p of each of the response's own tokens, in nats, given post and description.

        `None` where it could not be asked or did not answer.
        """
        ...

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        ...


def response_log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    rows: Sequence[Continuation],
    batch_size: int,
) -> list[float]:
    """log p(response | post, description), in nats: the sum over the response's own tokens.

    Source: METHOD, Rewards, R_gen. Prompt and response are tokenized apart, so that the tokens
    scored are the response's own whatever stands before it.
    """
    totals: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        heads = tokenizer([prompts.reply(row.post, row.description) for row in batch])["input_ids"]
        tails = tokenizer([f" {row.response}" for row in batch], add_special_tokens=False)
        pairs = list(zip(heads, tails["input_ids"], strict=True))
        totals += _sums(model, pairs)
    return totals


@torch.inference_mode()
def _sums(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Sums of the second parts' token log-probabilities; rows are padded on the right."""
    length = max(len(head) + len(tail) for head, tail in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, (head, tail) in enumerate(pairs):
        end = len(head) + len(tail)
        ids[row, :end] = torch.tensor(head + tail)
        mask[row, :end] = 1
        scored[row, len(head) : end] = True
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    log_probabilities = logits[:, :-1].float().log_softmax(-1).cpu()
    of_tokens = log_probabilities.gather(2, ids[:, 1:, None])[..., 0]
    sums: list[float] = (of_tokens * scored[:, 1:]).sum(1).tolist()
    return sums

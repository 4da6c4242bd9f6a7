"""Log-probabilities of chosen tokens, from forward passes that compute common beginnings once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from alignxplore_trl.judging.asking import Scores, Text
from alignxplore_trl.shared_prefix import ATTENTION, Branch, row_of, why_not

# A shorter common beginning costs more calls than it saves products.
SHORTEST_PREFIX = 64
# Rows of vocabulary size that a pass computes at once, at most.
_SCORED = 4096


class Reader:
    """Reads texts in batches: in rows that share prefixes, or padded where that isn't worth it.

    Args:
        model: a causal language model, used without gradients. Its attention is set to
            `shared_prefix` where it may share; it is PyTorch's SDPA in other passes.
        max_batch_tokens: of a forward pass, padding included; one text may exceed it.
    """

    def __init__(self, model: PreTrainedModel, max_batch_tokens: int) -> None:
        self.model, self.max_batch_tokens = model, max_batch_tokens
        config = model.config.get_text_config()
        self.context: float = getattr(config, "max_position_embeddings", None) or float("inf")
        # Under such a rotary embedding, a longer neighbour would change a shorter text.
        rope = str(getattr(config, "rope_parameters", None))
        self._pads = "dynamic" not in rope and "longrope" not in rope
        self.shares = _let_share(model)

    @torch.inference_mode()
    def read(self, texts: Sequence[Text]) -> list[Scores]:
        """Of each text log p, in nats, of the tokens wanted behind each of its last tokens."""
        found: list[Scores] = [[] for _ in texts]
        for batch, logits in self._passes(texts):
            for number, own in zip(batch, logits, strict=True):
                wanted = torch.tensor(texts[number].wanted, device=own.device)
                scores = own.float()
                scores = scores.gather(1, wanted) - scores.logsumexp(1, keepdim=True)
                found[number] = scores.tolist()
        return found

    def _passes(self, texts: Sequence[Text]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Numbers of texts, and of each the logits at its last positions."""
        order = sorted(range(len(texts)), key=lambda number: texts[number].ids)
        common = [_common(texts[a], texts[b]) for a, b in pairwise(order)]
        total = sum(len(text.ids) for text in texts)
        if self.shares and sum(n for n in common if n >= SHORTEST_PREFIX) > total / 10:
            yield from self._shared(texts, order, [0, *common])
        else:
            yield from self._padded(texts)

    def _padded(self, texts: Sequence[Text]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Texts of similar length, padded at their ends, which no text's own tokens look at."""
        left = sorted(range(len(texts)), key=lambda number: -len(texts[number].ids))
        while left:
            longest = len(texts[left[0]].ids)
            size = max(1, self.max_batch_tokens // longest)
            if not self._pads:
                size = min(size, sum(len(texts[number].ids) == longest for number in left))
            batch = [texts[number] for number in left[:size]]
            first = min(len(text.ids) - len(text.wanted) for text in batch)
            if size > 1 and len(batch) * (longest - first) > _SCORED:
                size = max(1, _SCORED // (longest - first))
                batch = batch[:size]
            ids = [text.ids + text.ids[-1:] * (longest - len(text.ids)) for text in batch]
            logits = self._logits(torch.arange(first, longest), input_ids=torch.tensor(ids))
            ends = [len(text.ids) - first for text in batch]
            numbers, left = left[:size], left[size:]
            yield (
                numbers,
                [
                    own[end - len(text.wanted) : end]
                    for own, end, text in zip(logits, ends, batch, strict=True)
                ],
            )

    def _shared(
        self, texts: Sequence[Text], order: Sequence[int], common: Sequence[int]
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Rows of texts in their order; `common` is what each shares with the one before it."""
        while order:
            tokens = scored = size = 0
            for number, shared in zip(order, common, strict=True):
                tokens += len(texts[number].ids)
                tokens -= shared if size and shared >= SHORTEST_PREFIX else 0
                scored += len(texts[number].wanted)
                if size and (tokens > self.max_batch_tokens or scored > _SCORED):
                    break
                size += 1
            batch = [texts[number] for number in order[:size]]
            row = row_of(_branches(batch, [0, *common[1:size]], 0), self.model.device)
            lengths = [len(text.wanted) for text in batch]
            places = [
                torch.arange(end - length, end)
                for (_, end), length in zip(row.texts, lengths, strict=True)
            ]
            logits = self._logits(torch.cat(places), **row.inputs)[0]
            yield list(order[:size]), list(logits.split(lengths))
            order, common = order[size:], common[size:]

    def _logits(self, places: torch.Tensor, **inputs: Any) -> torch.Tensor:
        device = self.model.device
        inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        logits: torch.Tensor = self.model(
            **inputs | {"use_cache": False}, logits_to_keep=places.to(device)
        ).logits
        return logits


def _common(one: Text, other: Text) -> int:
    """How many tokens two texts may share: those that both begin with, before what is scored."""
    most = min(len(text.ids) + 1 - len(text.wanted) for text in (one, other))
    pairs = zip(one.ids[:most], other.ids[:most], strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), most)


def _branches(texts: Sequence[Text], common: Sequence[int], start: int) -> list[Any]:
    """The tree of sorted texts from the token `start` on; where it begins, branches alone.

    Behind a text's last token any token stands for the one that is predicted.
    """
    found: list[Any] = []
    first = 0
    while first < len(texts):
        shared, end = len(texts[first].ids), first + 1
        while end < len(texts) and min(shared, common[end]) >= start + SHORTEST_PREFIX:
            shared = min(shared, common[end])
            end += 1
        ids = texts[first].ids
        if end > first + 1:
            inner = _branches(texts[first:end], common[first:end], shared)
            found.append(Branch(ids[start:shared], inner))
        else:
            found.append([*ids[start:], 0] if start else Branch(ids[:1], [[*ids[1:], 0]]))
        first = end
    return found


def _let_share(model: PreTrainedModel) -> bool:
    """Let a model attend with `ATTENTION`, if it can."""
    before = model.config._attn_implementation
    if before not in ("sdpa", ATTENTION):
        return False
    model.set_attn_implementation(ATTENTION)
    if not why_not(model):
        return True
    model.set_attn_implementation(before)
    return False

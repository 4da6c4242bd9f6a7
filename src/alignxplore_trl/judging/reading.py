"""Log-probabilities of chosen tokens, from forward passes that compute common beginnings once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from alignxplore_trl.judging.asking import Scores, Text
from alignxplore_trl.shared_prefix import ATTENTION, row_of, why_not

# A shorter common beginning costs more calls than it saves products.
SHORTEST_PREFIX = 64
# Rows of vocabulary size that a pass computes, at most, but for a single text.
_SCORED = 4096
Pass = tuple[Sequence[int], Sequence[torch.Tensor]]


class Reader:
    """Reads texts in batches: in rows that share prefixes, or padded where that isn't worth it.

    Where the model may share prefixes, its attention becomes `shared_prefix`, which is PyTorch's
    SDPA in all other passes. `max_batch_tokens` include padding; one text may exceed them.
    """

    def __init__(self, model: PreTrainedModel, max_batch_tokens: int) -> None:
        self.model, self.max_batch_tokens = model, max_batch_tokens
        config = model.config.get_text_config()
        self.context: float = getattr(config, "max_position_embeddings", None) or float("inf")
        # Under such a rotary embedding or choice of tokens, padding would change a shorter text.
        layers = [type(layer).__name__ for layer in DynamicCache(config=config).layers]
        kinds = f"{getattr(config, 'rope_parameters', None)} {layers}"
        self._pads = not any(kind in kinds for kind in ("dynamic", "longrope", "Indexed"))
        self.shares = False
        if (before := config._attn_implementation) in ("sdpa", ATTENTION):
            model.set_attn_implementation(ATTENTION)
            self.shares = not why_not(model)
            model.set_attn_implementation(ATTENTION if self.shares else before)

    @torch.inference_mode()
    def read(self, texts: Sequence[Text]) -> list[Scores]:
        """Of each text log p, in nats, of the tokens wanted behind each of its last tokens."""
        order = sorted(range(len(texts)), key=lambda number: texts[number].ids)
        common = [_common(texts[a], texts[b]) for a, b in pairwise(order)]
        saved = sum(tokens for tokens in common if tokens >= SHORTEST_PREFIX)
        if self.shares and saved > sum(len(text.ids) for text in texts) / 10:
            passes = self._shared(texts, order, [0, *common])
        else:
            passes = self._padded(texts)
        found: list[Scores] = [[] for _ in texts]
        for batch, logits in passes:
            for number, own in zip(batch, logits, strict=True):
                wanted = torch.tensor(texts[number].wanted, device=own.device)
                own = own.float()
                found[number] = (own.gather(1, wanted) - own.logsumexp(1, keepdim=True)).tolist()
        return found

    def _padded(self, texts: Sequence[Text]) -> Iterator[Pass]:
        """Texts of similar length, padded at their ends, where no token of a text looks."""
        left = sorted(range(len(texts)), key=lambda number: -len(texts[number].ids))
        while left:
            longest = len(texts[left[0]].ids)
            size, first = 0, longest
            for number in left:
                text = texts[number]
                start = min(first, len(text.ids) - len(text.wanted))
                full = (size + 1) * longest > self.max_batch_tokens
                full |= (size + 1) * (longest - start) > _SCORED
                if size and (full or not (self._pads or len(text.ids) == longest)):
                    break
                size, first = size + 1, start
            batch, left = left[:size], left[size:]
            rows = [texts[number].ids for number in batch]
            ids = torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows])
            logits = self._logits(torch.arange(first, longest), input_ids=ids)
            ends = [len(row) - first for row in rows]
            starts = [end - len(texts[n].wanted) for n, end in zip(batch, ends, strict=True)]
            yield batch, [own[a:b] for own, a, b in zip(logits, starts, ends, strict=True)]

    def _shared(
        self, texts: Sequence[Text], order: Sequence[int], common: Sequence[int]
    ) -> Iterator[Pass]:
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
            # Any token stands for the one that is predicted behind a text's last.
            laid_out = [([*text.ids, 0], len(text.wanted)) for text in batch]
            row = row_of(laid_out, common[:size], SHORTEST_PREFIX, self.model.device)
            lengths = [len(text.wanted) for text in batch]
            places = torch.cat([torch.arange(*place) for place in row.texts])
            yield order[:size], self._logits(places, **row.inputs)[0].split(lengths)
            order, common = order[size:], common[size:]

    def _logits(self, places: torch.Tensor, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        device = self.model.device
        inputs |= {"input_ids": input_ids.to(device), "logits_to_keep": places.to(device)}
        logits: torch.Tensor = self.model(**inputs | {"use_cache": False}).logits
        return logits


def _common(one: Text, other: Text) -> int:
    """How many tokens two texts may share: those that both begin with, before what is scored."""
    most = min(len(text.ids) - len(text.wanted) for text in (one, other))
    pairs = zip(one.ids[:most], other.ids[:most], strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), most)

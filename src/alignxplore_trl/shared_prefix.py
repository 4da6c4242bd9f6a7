"""One forward pass over texts of which several begin alike: what they share is computed once.

Texts a b c d x y z, a b c d u v and e f share three tokens of a row, and none. The last token of a
text is only predicted, and of the first and the second, three and two tokens are scored:

    row        a b c d x y   d u   e
    labels     - - - x y z   u v   -
    positions  0 1 2 3 4 5   3 4   0

What a text adds to the row attends to the parts before it that it shares and causally to itself, by
the attention function `ATTENTION`, which in other passes is PyTorch's SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prefix"
Span = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """Texts that are read in one pass: int64, (1, tokens); a label is the next token or -100.

    `spans` has for what each text adds its place, and those of what it shares; `texts` the places
    where the scored tokens of each text are predicted.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    spans: Sequence[tuple[Span, Sequence[Span]]]
    texts: Sequence[Span]

    @property
    def inputs(self) -> dict[str, Any]:
        """For the forward pass; a mask of four dimensions keeps the model from making one."""
        named = {"input_ids": self.ids, "position_ids": self.positions, "spans": self.spans}
        return named | {"attention_mask": self.ids.new_ones(1, 1, 1, 1), "use_cache": False}


def row_of(
    texts: Sequence[tuple[Sequence[int], int]],
    shared: Sequence[int],
    least: int = 1,
    device: torch.device | str = "cpu",
) -> Row:
    """Lay out texts, each with the number of its last tokens that are scored.

    `shared` says how many tokens each has in common with the one before it, those not counted that
    predict a scored one. Fewer than `least` more than are shared already are computed again.
    """
    columns: list[tuple[int, int, int]] = []
    spans, places = [], []
    begun: list[tuple[int, Span]] = []  # What is shared from here on: its depth in a text, place.
    for number, (ids, scored) in enumerate(texts):
        while begun and begun[-1][0] > shared[number]:
            begun.pop()
        depth = begun[-1][0] if begun else 0
        start = len(columns) - depth
        for place in range(depth, len(ids) - 1):
            label = ids[place + 1] if place >= len(ids) - 1 - scored else -100
            columns.append((ids[place], place, label))
        if depth < len(ids) - 1:
            spans.append(((start + depth, len(columns)), [span for _, span in begun]))
        places.append((len(columns) - scored, len(columns)))
        for tokens in sorted({*accumulate(shared[number + 1 :], min)}):
            if tokens >= depth + least:
                begun.append((tokens, (start + depth, start + tokens)))
                depth = tokens
    ids, positions, labels = torch.tensor(columns, device=device).T[:, None]
    return Row(ids, positions, labels, spans, places)


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any
) -> Any:
    """SDPA part by part, so that no product is computed that a mask would take out."""
    spans = options.pop("spans", None)
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    key, value = (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))
    parts = []
    for own, before in spans:
        q = query[:, :, slice(*own)]
        k, v = (
            torch.cat([states[:, :, slice(*span)] for span in (*before, own)], dim=2)
            for states in (key, value)
        )
        bias: torch.Tensor = causal_lower_right(q.shape[2], k.shape[2])
        if q.device.type == "cpu" and before:
            bias = bias._materialize(q.device)  # type: ignore[attr-defined]
        scale, dropout = options.get("scaling"), options.get("dropout", 0.0)
        parts.append(scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@torch.no_grad()
def why_not(model: PreTrainedModel) -> str:
    """Why prefixes can't be shared by a model loaded with `ATTENTION`; empty if they can."""
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if getattr(model, "_is_stateful", False) or kinds != {DynamicLayer}:
        return "not all of its layers read all tokens before"
    rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if "dynamic" in rope or "longrope" in rope:
        return "its rotary embedding depends on the length of the text"
    if not model._supports_attention_backend or config._attn_implementation != ATTENTION:
        return f"it attends with {config._attn_implementation}, not with {ATTENTION}"
    texts = [([3, 4, 5, 6, 7, 8, 9, 5], 2), ([3, 4, 5, 6, 7, 8, 3], 1), ([3, 4, 5, 6, 5, 4], 2)]
    texts.append(([9, 3, 6, 3, 4], 3))
    row = row_of(texts, [0, 5, 3, 0], device=model.device)
    together = model(**row.inputs).logits[0]
    found = [together[slice(*place)] for place in row.texts]
    wanted = []
    for ids, scored in texts:
        alone = model(torch.tensor([ids[:-1]], device=model.device), use_cache=False).logits[0]
        wanted.append(alone[-scored:])
    one, other = (torch.cat(rows).float().log_softmax(-1) for rows in (found, wanted))
    off = ((one - other).norm() / other.norm()).item()
    bound = 0.05 if model.dtype.itemsize < 4 else 1e-4
    return "" if off <= bound else f"its log-probabilities differ by {off:.1e} of their size"

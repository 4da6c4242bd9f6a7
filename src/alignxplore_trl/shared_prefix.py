"""One forward pass over texts of which several begin alike: what they share is computed once.

A row holds a prefix without its last token and then each of its continuations. That token begins
each of them, so that all of a continuation's own tokens are predicted inside it:

    prefix     a b c d   continuations x y z and u v
    row        a b c   d x y   d u
    labels     - - -   x y z   u v
    positions  0 1 2   3 4 5   3 4

Continuations may be prefixes themselves. Each part of the row attends to the prefixes before it and
causally to itself, by the attention function `ATTENTION`, which in other passes is PyTorch's SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prefix"
Span = tuple[int, int]


class Branch(NamedTuple):
    """Token ids, at least one, and what may follow them: more token ids, or branches."""

    prefix: Sequence[int]
    continuations: Sequence[Sequence[int] | Branch]


@dataclass
class Row:
    """Texts that are read in one pass: int64, (1, tokens); a label is the next token or -100.

    `spans` has for each part of the row its place, and those of the prefixes before it; `texts` the
    places of the continuations that aren't branches, in the order given.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    spans: list[tuple[Span, list[Span]]] = field(default_factory=list)
    texts: list[Span] = field(default_factory=list)

    @property
    def inputs(self) -> dict[str, Any]:
        """For the forward pass; a mask of four dimensions keeps the model from making one."""
        named = {"input_ids": self.ids, "position_ids": self.positions, "spans": self.spans}
        return named | {"attention_mask": self.ids.new_ones(1, 1, 1, 1), "use_cache": False}


def row_of(
    groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int] | Branch]]],
    device: torch.device | str = "cpu",
) -> Row:
    """A row of prefixes with what may follow each; the tokens of all continuations are labels."""
    row = Row(*torch.empty(3, 1, 0, dtype=torch.long))
    columns: list[tuple[int, int, int]] = []
    for group in groups:
        _lay_out(row, columns, Branch(*group), 0, [])
    row.ids, row.positions, row.labels = torch.tensor(columns, device=device).T[:, None]
    return row


def _lay_out(
    row: Row, columns: list[tuple[int, int, int]], branch: Branch, start: int, before: list[Span]
) -> None:
    """Append a branch whose first token has the position `start`."""
    prefix, continuations = branch
    # Without continuations nothing else would be left of a prefix of one token.
    shared = prefix[:-1] if any(continuations) else prefix
    if shared:
        own = (len(columns), len(columns) + len(shared))
        columns += ((token, start + place, -100) for place, token in enumerate(shared))
        _attend_to(row, own, before)
        before = [*before, own]
    last = start + len(prefix) - 1
    for continuation in continuations:
        if isinstance(continuation, Branch):
            inner = continuation._replace(prefix=[prefix[-1], *continuation.prefix])
            _lay_out(row, columns, inner, last, before)
            continue
        own, read = (len(columns), len(columns) + len(continuation)), [prefix[-1], *continuation]
        columns += zip(read, range(last, last + len(continuation)), continuation, strict=False)
        row.texts.append(own)
        if continuation:
            _attend_to(row, own, before)


def _attend_to(row: Row, own: Span, before: list[Span]) -> None:
    """What follows its prefix at once is one part with it: no mask is needed then."""
    if before and row.spans[-1][0][1] == before[-1][1] == own[0]:
        (first, _), others = row.spans.pop()
        own, before = (first, own[1]), others
    row.spans.append((own, before))


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
    inner = Branch([7, 8], [[9, 5], [3]])
    texts = [([3, 4, 5, 6, 7, 8], [9, 5]), ([3, 4, 5, 6, 7, 8], [3]), ([3, 4, 5, 6], [5, 4])]
    row = row_of([([3, 4, 5, 6], [inner, [5, 4]]), ([9, 3], [[6, 3, 4]])], model.device)
    together = model(**row.inputs).logits[0]
    texts.append(([9, 3], [6, 3, 4]))
    found, wanted = [], []
    for (prefix, own), place in zip(texts, row.texts, strict=True):
        alone = model(torch.tensor([prefix + own], device=model.device), use_cache=False).logits[0]
        found.append(together[slice(*place)])
        wanted.append(alone[len(prefix) - 1 : -1])
    one, other = (torch.cat(rows).float().log_softmax(-1) for rows in (found, wanted))
    off = ((one - other).norm() / other.norm()).item()
    bound = 0.05 if model.dtype.itemsize < 4 else 1e-4
    return "" if off <= bound else f"its log-probabilities differ by {off:.1e} of their size"

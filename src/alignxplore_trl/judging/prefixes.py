"""Log-probabilities of chosen tokens, from forward passes that compute shared prefixes once.

The token ids of a batch of texts form a tree: where texts begin alike they share a branch. Each
branch is computed once, on the kept keys and values of the branches before it, and all branches of
one depth together. What the texts of every batch begin with, such as a prompt's instructions, is
kept between calls.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from alignxplore_trl.judging.measurements import Measurements

logger = logging.getLogger(__name__)

TokenIds = tuple[int, ...]

# A shorter shared part saves less than the forward pass of its own costs.
_WORTH_SHARING = 32
# Prefixes kept between calls: a prompt's instructions with a description, and without one.
_KEPT_PREFIXES = 4
# Largest difference, relative to their size, between logits that should be the same.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_PRECISION_TOLERANCE = 0.05
# Values that start in many ways: what prompts of all of them begin with, every prompt does.
_ANY_VALUES = ("a", "Z", "1", " ", "\n", ".", "é", "<", "the")


@dataclass(frozen=True)
class Reading:
    """Token ids to be read, and the tokens whose log-probability is wanted after them.

    Attributes:
        ids: at least as many as there are `targets`.
        targets: token ids by position, for the last positions of `ids`; the last entry names the
            tokens that may come next after all of them.
    """

    ids: TokenIds
    targets: tuple[TokenIds, ...]

    @property
    def shareable(self) -> int:
        """How many tokens may be computed with those of others: no logits are read there."""
        return len(self.ids) - len(self.targets)


@dataclass(frozen=True)
class _Branch:
    """A part of the tree: its own tokens, and what follows them.

    Attributes:
        ids: its tokens.
        parent: the row of the batch in which the branch before it was computed.
        reading: the number of the reading that ends here; there are no children then.
    """

    ids: TokenIds
    parent: int = 0
    reading: int = -1
    children: tuple[_Branch, ...] = ()


@dataclass(frozen=True)
class _Past:
    """Keys and values of every layer, (rows, heads, slots, head size), and the slots in use."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor

    @property
    def slots(self) -> int:
        return self.mask.shape[1]


class _ContinuedLayer(DynamicLayer):
    """One layer's keys and values, gone on from by any number of texts for each of their rows.

    Rows are copied when the layer is reached. Unless `keep` is set, keys and values are let go when
    it is left, so that those of one layer at a time are held.
    """

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, keep: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._rows = rows.to(keys.device)
        self._keep = keep

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self._chosen(self.keys), key_states], dim=2)
        values = torch.cat([self._chosen(self.values), value_states], dim=2)
        if self._keep:
            self.keys, self.values = keys, values
        return keys, values

    def _chosen(self, states: torch.Tensor | None) -> torch.Tensor:
        assert states is not None
        if len(states) == 1:
            return states.expand(len(self._rows), -1, -1, -1)
        return states.index_select(0, self._rows)


class PrefixSharingModel:
    """A frozen causal language model, read with as few tokens computed as the texts allow.

    A model whose keys and values can't be gone on from by several texts is read the plain way, one
    padded row per text: models with a sliding window or a recurrent state, and any whose logits
    come out otherwise on a first few short texts. One that goes wrong under padding is read a text
    at a time. Either is logged, once.

    Args:
        model: any causal language model of transformers, used without gradients. If its weights
            change between calls, what is kept is computed again.
        max_batch_tokens: slots of a forward pass, those of shared prefixes and of padding included;
            one text may exceed it. At most one such batch per depth of the tree is held at a time.
        worth_sharing: tokens that a shared part must have to be computed on its own.
    """

    def __init__(
        self, model: PreTrainedModel, max_batch_tokens: int, worth_sharing: int = _WORTH_SHARING
    ) -> None:
        self.model = model.eval()
        self.max_batch_tokens = max_batch_tokens
        self.worth_sharing = worth_sharing
        # An adapter's forward hands on what it doesn't name.
        named = model.get_base_model() if isinstance(model, PeftModel) else model
        self._accepted = inspect.signature(named.forward).parameters.keys()
        self._kept: dict[TokenIds, _Past] = {}
        self._weights: object = None
        self._checked = self._pads = self._shares = False

    @property
    def context(self) -> float:
        """The longest text the model can read, in tokens."""
        return getattr(
            self.model.config.get_text_config(), "max_position_embeddings", None
        ) or float("inf")

    @torch.inference_mode()
    def log_probabilities(
        self, readings: Sequence[Reading], prefixes: Sequence[TokenIds], measurements: Measurements
    ) -> list[list[list[float]]]:
        """log p of each reading's targets, in nats: by position and target, computed in float32.

        Args:
            readings: what to read; each must fit the context.
            prefixes: what many texts begin with; computed once and kept for later calls.
            measurements: where forward passes and the tokens they computed are counted.
        """
        found: list[list[list[float]]] = [[] for _ in readings]
        if not readings:
            return found
        if not self._checked:
            self._check(readings[0].ids)
        if self._shares:
            answers = self._shared_logits(readings, prefixes, self.worth_sharing, measurements)
        else:
            answers = self._plain_logits(readings, measurements)
        for index, logits in answers:
            found[index] = _of_targets(logits, readings[index].targets)
        return found

    def _plain_logits(
        self, readings: Sequence[Reading], measurements: Measurements
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Index and logits, (targets, vocabulary), of each reading, each computed whole."""
        whole = [_Branch(own.ids, reading=number) for number, own in enumerate(readings)]
        return self._walk(whole, None, readings, measurements)

    def _shared_logits(
        self,
        readings: Sequence[Reading],
        prefixes: Sequence[TokenIds],
        worth: int,
        measurements: Measurements,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The same, with what readings begin with computed once."""
        kept = [prefix for prefix in prefixes if len(prefix) >= worth]
        by_prefix: dict[TokenIds, list[int]] = {}
        for number, reading in enumerate(readings):
            by_prefix.setdefault(_longest_prefix(reading, kept), []).append(number)
        for prefix, numbers in by_prefix.items():
            past = self._keep(prefix, measurements) if prefix else None
            ordered = sorted(numbers, key=lambda number: readings[number].ids)
            branches = _grow(readings, ordered, len(prefix), worth)
            yield from self._walk(branches, past, readings, measurements)

    def _walk(
        self,
        branches: Sequence[_Branch],
        past: _Past | None,
        readings: Sequence[Reading],
        measurements: Measurements,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Compute branches of one depth, batch by batch, and what follows each batch."""
        slots = past.slots if past else 0
        for batch in self._batches([branch for branch in branches if branch.children], slots):
            _, longer = self._forward(batch, past, 1, True, measurements)
            children = [
                replace(child, parent=row)
                for row, branch in enumerate(batch)
                for child in branch.children
            ]
            yield from self._walk(children, longer, readings, measurements)
        for batch in self._batches([branch for branch in branches if not branch.children], slots):
            wanted = [len(readings[branch.reading].targets) for branch in batch]
            logits, _ = self._forward(batch, past, max(wanted), False, measurements)
            for row, (branch, count) in enumerate(zip(batch, wanted, strict=True)):
                yield branch.reading, logits[row, logits.shape[1] - count :]

    def _batches(self, branches: Sequence[_Branch], slots: int) -> Iterator[list[_Branch]]:
        """Branches of similar length that go on from so many slots, in batches of similar size."""
        left = sorted(branches, key=lambda branch: -len(branch.ids))
        while left:
            longest = slots + len(left[0].ids)
            fitting = max(1, self.max_batch_tokens // longest) if self._pads else 1
            size = -(-len(left) // -(-len(left) // fitting))
            yield left[:size]
            left = left[size:]

    def _forward(
        self,
        batch: Sequence[_Branch],
        past: _Past | None,
        wanted: int,
        keep: bool,
        measurements: Measurements,
    ) -> tuple[torch.Tensor, _Past | None]:
        """Logits at the last `wanted` positions, and keys and values, if they are to be kept."""
        started = time.perf_counter()
        ids, mask = _pad([branch.ids for branch in batch])
        cache = DynamicCache(config=self.model.config) if keep or past else None
        if cache is not None and past is not None:
            rows = torch.tensor([branch.parent for branch in batch])
            mask = torch.cat([past.mask[rows], mask], dim=1)
            cache.layers = [_ContinuedLayer(*layer, rows, keep) for layer in past.layers]
        device = self.model.device
        inputs: dict[str, object] = {
            "input_ids": ids.to(device),
            # Without padding no mask: attention then has its quickest way.
            "attention_mask": None if bool(mask.all()) else mask.to(device),
            "use_cache": cache is not None,
            "past_key_values": cache,
            "position_ids": _positions(mask, ids.shape[1]).to(device),
            "logits_to_keep": wanted,
        }
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        logits: torch.Tensor = self.model(**accepted).logits[:, -wanted:]
        if device.type != "cpu":
            torch.accelerator.synchronize()
        measurements.latencies.append(time.perf_counter() - started)
        measurements.requests += 1
        measurements.tokens += sum(len(branch.ids) for branch in batch)
        if not keep or cache is None:
            return logits, None
        return logits, _Past([(keys, values) for keys, values, *_ in cache], mask)

    def _keep(self, prefix: TokenIds, measurements: Measurements) -> _Past:
        """Keys and values of a prefix, computed where they aren't kept for these weights."""
        weights = _state_of(self.model)
        if weights != self._weights:
            self._weights = weights
            self._kept.clear()
        if prefix not in self._kept:
            if len(self._kept) == _KEPT_PREFIXES:
                del self._kept[next(iter(self._kept))]
            _, past = self._forward([_Branch(prefix)], None, 1, True, measurements)
            assert past is not None
            self._kept[prefix] = past
        return self._kept[prefix]

    def _check(self, ids: TokenIds) -> None:
        """Find out how this model may be read, on parts of a text; what it lacks is logged."""
        name = type(self.model).__name__
        ids = (ids * 24)[:24]
        parts = [ids[:20], ids[:12] + ids[:3], ids[:8] + ids[1:3], ids[3:9]]
        readings = [Reading(part, ((0,),)) for part in parts]
        uncounted = Measurements()
        alone = _centred(self._plain_logits(readings, uncounted))
        self._pads = True
        padded = _centred(self._plain_logits(readings, uncounted))
        if wrong := self._difference(padded, alone):
            self._pads = False
            logger.warning("%s: texts are read one at a time: padded, %s", name, wrong)
        reason = self._why_not()
        if not reason:
            shared = _centred(self._shared_logits(readings, (), 2, uncounted))
            reason = self._difference(shared, alone)
        if reason:
            logger.warning("%s: prefixes are not shared, each text is read whole: %s", name, reason)
        self._shares = not reason
        self._checked = True

    def _difference(self, found: torch.Tensor, expected: torch.Tensor) -> str:
        """Empty if logits agree as well as their precision allows."""
        difference = ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()
        if difference <= _TOLERANCE.get(self.model.dtype, _HALF_PRECISION_TOLERANCE):
            return ""
        return f"its logits differ by {difference:.1e} of their size"

    def _why_not(self) -> str:
        missing = {"past_key_values", "use_cache", "attention_mask"} - self._accepted
        if missing:
            return f"its forward pass takes no {', '.join(sorted(missing))}"
        if getattr(self.model, "_is_stateful", False):
            return "it has a recurrent state"
        kinds = {type(layer) for layer in DynamicCache(config=self.model.config).layers}
        others = sorted(kind.__name__ for kind in kinds if kind is not DynamicLayer)
        return f"it keeps keys and values in {', '.join(others)}" if others else ""


def common_prefix(encode: Callable[[str], TokenIds]) -> TokenIds:
    """What the token ids of a prompt begin with, whatever value is put into its slots."""
    encoded = [encode(value) for value in _ANY_VALUES]
    return encoded[0][: min(_shared(encoded[0], other) for other in encoded)]


def _longest_prefix(reading: Reading, prefixes: Sequence[TokenIds]) -> TokenIds:
    """The longest of the prefixes with which a reading begins and after which it is read."""
    fitting = [
        prefix
        for prefix in prefixes
        if len(prefix) <= reading.shareable and reading.ids[: len(prefix)] == prefix
    ]
    return max(fitting, key=len, default=())


def _grow(
    readings: Sequence[Reading], numbers: Sequence[int], start: int, worth: int
) -> tuple[_Branch, ...]:
    """The tree of readings, given by number in the order of their ids, from a position on."""
    if not numbers:
        return ()
    shared = [_shareable_part(readings[one], readings[other]) for one, other in pairwise(numbers)]
    branches, first = [], 0
    for last in range(len(numbers)):
        if last < len(shared) and shared[last] - start >= worth:
            continue
        group, ids = numbers[first : last + 1], readings[numbers[first]].ids
        if len(group) == 1:
            branches.append(_Branch(ids[start:], reading=group[0]))
        else:
            end = min(shared[first:last])
            children = _grow(readings, group, end, worth)
            branches.append(_Branch(ids[start:end], children=children))
        first = last + 1
    return tuple(branches)


def _shareable_part(one: Reading, other: Reading) -> int:
    return min(_shared(one.ids, other.ids), one.shareable, other.shareable)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their beginning on."""
    for position, (token, another) in enumerate(zip(one, other, strict=False)):
        if token != another:
            return position
    return min(len(one), len(other))


def _pad(rows: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 of shape (rows, longest), padded on the left."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of the last `count` slots: how many slots in use come before each."""
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -count:]


def _centred(answers: Iterator[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Logits by reading, float32, without the constant that softmax takes out."""
    logits = dict(answers)
    rows = torch.stack([logits[number] for number in sorted(logits)]).float()
    return rows - rows.mean(-1, keepdim=True)


def _of_targets(logits: torch.Tensor, targets: Sequence[TokenIds]) -> list[list[float]]:
    """log p of the targets of each position; no copy of all log-probabilities is made."""
    logits = logits.float()
    index = torch.tensor(targets, device=logits.device)
    chosen = logits.gather(1, index) - logits.logsumexp(1, keepdim=True)
    values: list[list[float]] = chosen.tolist()
    return values


def _state_of(model: PreTrainedModel) -> object:
    """Differs after the weights were replaced, moved, or changed in place by an optimizer."""
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in model.parameters()
    ]

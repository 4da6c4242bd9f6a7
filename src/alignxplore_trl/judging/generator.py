"""A generator's log-probabilities of responses, from which R_gen is made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.prefixes import (
    PrefixSharingModel,
    Reading,
    common_prefix,
)
from alignxplore_trl.judging.weights import load_model
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


class LocalGenerator:
    """Reads log p(response | post, description), token by token, from forward passes.

    Source: METHOD, Rewards, R_gen. Prompt and response are tokenized apart and their token ids
    joined, so that the tokens scored are the response's own whatever stands before it. Rows with
    the same post and description share the keys and values of their prompt, and logits are computed
    at the positions of the response only.

    Args:
        model: a causal language model, used without gradients.
        tokenizer: its tokenizer.
        prompts: the templates; the reply template is used.
        max_batch_tokens: slots of a forward pass, those of shared prompts and padding included; one
            row may exceed it. The logits of a pass have up to this many rows of vocabulary size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        *,
        max_batch_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self._model = PrefixSharingModel(model, max_batch_tokens)
        self._prefixes = [
            common_prefix(lambda text: tuple(tokenizer(prompts.reply(text, text))["input_ids"])),
            common_prefix(lambda text: tuple(tokenizer(prompts.reply(text, None))["input_ids"])),
        ]
        self._measurements = Measurements()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        prompts: PromptSet,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        max_batch_tokens: int,
        attn_implementation: str | None = None,
    ) -> LocalGenerator:
        """Load a generator and its tokenizer from a folder or the name of a model."""
        return cls(
            load_model(folder, dtype=dtype, device=device, attn_implementation=attn_implementation),
            AutoTokenizer.from_pretrained(folder),
            prompts,
            max_batch_tokens=max_batch_tokens,
        )

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        """log p of each of the response's own tokens, in nats; equal rows are read once.

        `None` where prompt and response together are longer than the model's context.
        """
        started = time.perf_counter()
        distinct = list(dict.fromkeys(rows))
        found = dict(zip(distinct, self._read(distinct), strict=True))
        answers = [found[row] for row in rows]
        too_long = answers.count(None)
        self._measurements += Measurements(
            seconds=time.perf_counter() - started,
            questions=len(rows),
            lookups=len(rows),
            hits=len(rows) - len(distinct),
            unanswered={"too_long": too_long} if too_long else {},
        )
        return answers

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _read(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        encoded = encode_replies(
            self.tokenizer,
            [self.prompts.reply(row.post, row.description) for row in rows],
            [row.response for row in rows],
        )
        readings = [
            Reading((*head, *tail[:-1]), tuple((token,) for token in tail))
            for head, tail in encoded
        ]
        fitting = [
            number
            for number, own in enumerate(readings)
            if own.targets and len(own.ids) <= self._model.context
        ]
        answers = self._model.log_probabilities(
            [readings[number] for number in fitting], self._prefixes, self._measurements
        )
        found: list[tuple[float, ...] | None] = [None if own.targets else () for own in readings]
        for number, answer in zip(fitting, answers, strict=True):
            found[number] = tuple(value for (value,) in answer)
        return found

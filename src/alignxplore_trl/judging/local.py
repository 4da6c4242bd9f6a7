"""A judge and a generator in this process: any causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from alignxplore_trl.judging.asking import LetterJudge, Model, ReplyGenerator, Scores, Text
from alignxplore_trl.judging.reading import Reader
from alignxplore_trl.judging.weights import load_model


@dataclass(kw_only=True, eq=False)
class LocalModel(Model):
    """A model in this process; its weights are loaded at first use, or by `load`.

    Attributes:
        dtype: of the weights.
        max_batch_tokens: tokens of one forward pass, padding included.
        attn_implementation: a name that transformers knows; `None` leaves the choice to it. With
            sdpa, common beginnings are read once where the model can do so.
    """

    dtype: str
    max_batch_tokens: int = 16384
    attn_implementation: str | None = None

    @cached_property
    def reader(self) -> Reader:
        weights = load_model(self.model, self.dtype, self.attn_implementation)
        return Reader(weights, self.max_batch_tokens)

    def _score(self, texts: Sequence[Text]) -> list[Scores | str]:
        fitting = [text for text in texts if len(text.ids) <= self.reader.context]
        found = dict(zip(fitting, self.reader.read(fitting), strict=True))
        return [found.get(text, "too_long") for text in texts]


@dataclass(kw_only=True, eq=False)
class LocalJudge(LetterJudge, LocalModel):
    """A judge that is read from one forward pass; what questions begin with alike is read once."""


@dataclass(kw_only=True, eq=False)
class LocalGenerator(ReplyGenerator, LocalModel):
    """A generator that is read from one forward pass."""

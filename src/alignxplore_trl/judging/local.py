"""A judge and a generator in this process: any causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from alignxplore_trl.judging.asking import LetterJudge, Model, ReplyGenerator, Scores, Text
from alignxplore_trl.judging.protocol import Layout
from alignxplore_trl.judging.reading import Reader
from alignxplore_trl.judging.weights import load_model


class LocalModel(Model):
    """A model in this process; its weights are loaded at first use, or by `load`."""

    def __init__(
        self, model: str, dtype: str, attn_implementation: str | None, max_batch_tokens: int
    ) -> None:
        super().__init__(model)
        self.settings, self.max_batch_tokens = (dtype, attn_implementation), max_batch_tokens

    @cached_property
    def reader(self) -> Reader:
        return Reader(load_model(self.name, *self.settings), self.max_batch_tokens)

    def load(self, example: Text) -> None:
        self.reader.read([example])

    def score(self, texts: Sequence[Text]) -> list[Scores | str]:
        fitting = [text for text in texts if len(text.ids) <= self.reader.context]
        found = dict(zip(fitting, self.reader.read(fitting), strict=True))
        return [found.get(text, "too_long") for text in texts]


class LocalJudge(LetterJudge):
    """A judge that is read from one forward pass; what questions begin with alike is read once.

    Args:
        model: a folder, or a name on the Hub.
        prompts: a prompt folder; its judgement template of the layout is used.
        dtype: of the weights.
        chat: send the question through the model's chat template.
        layout: where the description stands: `description_first`, or `description_last`, where the
            rollouts of a case share post and replies.
        max_batch_tokens: tokens of one forward pass, padding included.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
        attn_implementation: a name that transformers knows; `None` leaves the choice to it. With
            sdpa, common beginnings are read once where the model can do so.
    """

    def __init__(
        self,
        model: str,
        prompts: str,
        dtype: str,
        chat: bool,
        layout: Layout = "description_first",
        max_batch_tokens: int = 16384,
        minimum_label_mass: float = 0.5,
        attn_implementation: str | None = None,
    ) -> None:
        own = LocalModel(model, dtype, attn_implementation, max_batch_tokens)
        super().__init__(own, chat, prompts, layout, minimum_label_mass)


class LocalGenerator(ReplyGenerator):
    """A generator that is read from one forward pass. The arguments are those of `LocalJudge`."""

    def __init__(
        self,
        model: str,
        dtype: str,
        chat: bool,
        max_batch_tokens: int = 16384,
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__(LocalModel(model, dtype, attn_implementation, max_batch_tokens), chat)

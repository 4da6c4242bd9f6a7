"""A judge and a generator in this process: any causal language model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from alignxplore_trl.judging.encoding import encode_questions, encode_replies
from alignxplore_trl.judging.protocol import Layout, Question, Verdict, judgement
from alignxplore_trl.judging.reading import Reader, Text
from alignxplore_trl.judging.weights import load_model, load_tokenizer
from alignxplore_trl.text.prompts import Prompts


class _Local:
    """Settings of a model in this process; weights are loaded at first use, or by `load`."""

    def __init__(
        self,
        model: str,
        dtype: str,
        chat: bool,
        max_batch_tokens: int,
        attn_implementation: str | None,
        device: str | None,
    ) -> None:
        self.model, self.dtype, self.chat = model, dtype, chat
        self.max_batch_tokens = max_batch_tokens
        self.attn_implementation, self.device = attn_implementation, device
        self.counts: Counter[str] = Counter()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model)

    @cached_property
    def reader(self) -> Reader:
        weights = load_model(self.model, self.dtype, self.attn_implementation, self.device)
        return Reader(weights, self.max_batch_tokens, share=self.attn_implementation is None)

    def load(self) -> None:
        """Bring tokenizer and weights into memory.

        Raises:
            UserError: there is no such model, or its answers can't be read.
        """
        encode_questions(self.tokenizer, ["?"], self.chat)
        assert self.reader

    def close(self) -> None:
        """Give the weights up; the next use loads them again."""
        self.__dict__.pop("reader", None)

    def _read(self, texts: Sequence[Text]) -> list[list[list[float]] | None]:
        """Log-probabilities, `None` for texts beyond the model's context; equal texts once."""
        keys = [(tuple(text.ids), tuple(map(tuple, text.wanted))) for text in texts]
        distinct = {
            key: text
            for key, text in zip(keys, texts, strict=True)
            if len(text.ids) <= self.reader.context
        }
        found = dict(zip(distinct, self.reader.read([*distinct.values()]), strict=True))
        self.counts["too_long"] += sum(key not in found for key in keys)
        return [found.get(key) for key in keys]


class LocalJudge(_Local):
    """Reads the probability of naming A against B from one forward pass.

    The judge's answer `{"selection": "Response A"}` is teacher-forced up to the letter. Equal
    questions are asked once, and what questions begin with alike is computed once.

    Args:
        model: a folder, or a name on the Hub.
        prompts: a prompt folder; its judgement template of the layout is used.
        dtype: of the weights.
        chat: send the question through the model's chat template.
        layout: where the description stands: `description_first`, or `description_last`, where the
            rollouts of a case share post and replies.
        max_batch_tokens: tokens of one forward pass, padding included.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
        attn_implementation: a name that transformers knows. `None` is its choice, with common
            beginnings computed once where the model can do so.
        device: `None` is this process's GPU, or the CPU where there is none.

    Attributes:
        counts: unanswered questions by reason (too_long, label_mass).
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
        device: str | None = None,
    ) -> None:
        super().__init__(model, dtype, chat, max_batch_tokens, attn_implementation, device)
        self.prompts, self.layout = Prompts(prompts), layout
        self.minimum_label_mass = minimum_label_mass

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; `None` where it is too long, or the label mass too small."""
        prompts = [judgement(self.prompts, question, self.layout) for question in questions]
        encoded = encode_questions(self.tokenizer, prompts, self.chat)
        answers = self._read([Text(ids, [list(letters)]) for ids, letters in encoded])
        return [None if answer is None else self._verdict(*answer[0]) for answer in answers]

    def _verdict(self, log_a: float, log_b: float) -> Verdict | None:
        a, b = math.exp(log_a), math.exp(log_b)
        if a + b >= self.minimum_label_mass:
            return Verdict(a / (a + b), a + b)
        self.counts["label_mass"] += 1
        return None


class LocalGenerator(_Local):
    """Reads log p(reply | prompt), the sum over the reply's own tokens, from forward passes.

    Args:
        model: a folder, or a name on the Hub.
        dtype: of the weights.
        chat: send the prompt through the model's chat template.
        max_batch_tokens: tokens of one forward pass, padding included.
        attn_implementation, device: as for `LocalJudge`.

    Attributes:
        counts: unanswered rows by reason (too_long, empty).
    """

    def __init__(
        self,
        model: str,
        dtype: str,
        chat: bool,
        max_batch_tokens: int = 16384,
        attn_implementation: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(model, dtype, chat, max_batch_tokens, attn_implementation, device)

    def log_probabilities(
        self, prompts: Sequence[str], replies: Sequence[str]
    ) -> list[float | None]:
        """log p in nats; `None` for a reply without tokens, or beyond the model's context."""
        encoded = encode_replies(self.tokenizer, prompts, replies, self.chat)
        answers = iter(
            self._read(
                [
                    Text(head + tail[:-1], [[each] for each in tail])
                    for head, tail in encoded
                    if tail
                ]
            )
        )
        self.counts["empty"] += sum(not tail for _, tail in encoded)
        scores = [next(answers) if tail else None for _, tail in encoded]
        return [None if own is None else math.fsum(token for (token,) in own) for own in scores]

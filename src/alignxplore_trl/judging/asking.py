"""A judge read at the letter of its answer, and a generator: what they ask of a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from alignxplore_trl.judging.encoding import encode_questions, encode_replies
from alignxplore_trl.judging.protocol import Layout, Question, Verdict, judgement
from alignxplore_trl.judging.weights import load_tokenizer
from alignxplore_trl.text.prompts import Prompts

# Of each position log p of the tokens wanted there, in nats.
Scores = list[list[float]]


class Text(NamedTuple):
    """Token ids to read, and of which tokens log p is wanted behind each of the last of them."""

    ids: tuple[int, ...]
    wanted: tuple[tuple[int, ...], ...]


class Model(ABC):
    """A causal language model, here or on a server, and its tokenizer."""

    def __init__(self, model: str) -> None:
        self.name = model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.name)

    @abstractmethod
    def load(self, example: Text) -> None:
        """Make sure that it can be asked such a thing; UserError where it can't."""

    @abstractmethod
    def score(self, texts: Sequence[Text]) -> list[Scores | str]:
        """What is wanted of each text, or the reason why there is nothing."""


class _Asking:
    """How a model is asked; `counts` has what wasn't answered, by reason."""

    def __init__(self, model: Model, chat: bool) -> None:
        self.model, self.chat = model, chat
        self.counts: Counter[str] = Counter()

    def _score(self, texts: Sequence[Text]) -> list[Scores | None]:
        """Ask equal texts once."""
        distinct = list(dict.fromkeys(texts))
        found = dict(zip(distinct, self.model.score(distinct), strict=True))
        self.counts += Counter(own for text in texts if isinstance(own := found[text], str))
        return [None if isinstance(own := found[text], str) else own for text in texts]


class LetterJudge(_Asking):
    """Reads the probability of naming A against B, the answer's JSON forced up to the letter."""

    def __init__(
        self, model: Model, chat: bool, prompts: str, layout: Layout, minimum_label_mass: float
    ) -> None:
        super().__init__(model, chat)
        self.prompts, self.layout = Prompts(prompts), layout
        self.minimum_label_mass = minimum_label_mass

    def load(self) -> None:
        """Bring weights into memory, or try the servers; UserError where it can't be asked."""
        [(ids, letters)] = encode_questions(self.model.tokenizer, ["?"], self.chat)
        self.model.load(Text(tuple(ids), (letters,)))

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; `None` without an answer, or with too small a label mass."""
        prompts = [judgement(self.prompts, question, self.layout) for question in questions]
        encoded = encode_questions(self.model.tokenizer, prompts, self.chat)
        answers = self._score([Text(tuple(ids), (letters,)) for ids, letters in encoded])
        return [None if answer is None else self._verdict(*answer[0]) for answer in answers]

    def _verdict(self, log_a: float, log_b: float) -> Verdict | None:
        a, b = math.exp(log_a), math.exp(log_b)
        if a + b > 0 and a + b >= self.minimum_label_mass:
            return Verdict(a / (a + b), a + b)
        self.counts["label_mass"] += 1
        return None


class ReplyGenerator(_Asking):
    """Reads log p(reply | prompt), the sum over the reply's own tokens."""

    def load(self) -> None:
        """Bring weights into memory, or try the servers; UserError where it can't be asked."""
        [(head, tail)] = encode_replies(self.model.tokenizer, ["?"], ["!"], self.chat)
        self.model.load(Text(tuple(head), (tuple(tail[:1]),)))

    def log_probabilities(
        self, prompts: Sequence[str], replies: Sequence[str]
    ) -> list[float | None]:
        """log p in nats; `None` without an answer, and for a reply without tokens."""
        encoded = encode_replies(self.model.tokenizer, prompts, replies, self.chat)
        wanted = [tuple((token,) for token in tail) for _, tail in encoded]
        texts = [Text((*h, *t[:-1]), w) for (h, t), w in zip(encoded, wanted, strict=True) if w]
        self.counts["empty"] += len(encoded) - len(texts)
        answers = iter(self._score(texts))
        scores = [next(answers) if own else None for own in wanted]
        return [None if own is None else math.fsum(token for (token,) in own) for own in scores]

"""A judge read at the letter of its answer, and a generator: what they ask of a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """A causal language model, here or on a server, and how it is asked.

    Attributes:
        model: a folder, or a name on the Hub; of a served one, only the tokenizer is read.
        chat: send what is asked through the model's chat template.
        counts: what wasn't answered, by reason.
    """

    model: str
    chat: bool

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model)

    def load(self) -> None:
        """Bring weights into memory, or try the servers; UserError where it can't be asked."""
        self._score([self._example()])

    @abstractmethod
    def _example(self) -> Text:
        """A text that can be asked about."""

    @abstractmethod
    def _score(self, texts: Sequence[Text]) -> list[Scores | str]:
        """What is wanted of each text, or the reason why there is nothing."""

    def _score_distinct(self, texts: Sequence[Text]) -> list[Scores | None]:
        """Ask equal texts once, and count what isn't answered."""
        distinct = list(dict.fromkeys(texts))
        found = dict(zip(distinct, self._score(distinct), strict=True))
        self.counts += Counter(own for text in texts if isinstance(own := found[text], str))
        return [None if isinstance(own := found[text], str) else own for text in texts]


@dataclass(kw_only=True, eq=False)
class LetterJudge(Model):
    """Reads the probability of naming A against B, the answer's JSON forced up to the letter.

    Attributes:
        prompts: a prompt folder; its judgement template of the layout is used.
        layout: where the description stands: `description_first`, or `description_last`, where the
            rollouts of a case share post and replies.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
    """

    prompts: str
    layout: Layout = "description_first"
    minimum_label_mass: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.templates = Prompts(self.prompts)

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; `None` without an answer, or with too small a label mass."""
        prompts = [judgement(self.templates, question, self.layout) for question in questions]
        encoded = encode_questions(self.tokenizer, prompts, self.chat)
        answers = self._score_distinct([Text(tuple(ids), (own,)) for ids, own in encoded])
        return [None if answer is None else self._verdict(*answer[0]) for answer in answers]

    def _verdict(self, log_a: float, log_b: float) -> Verdict | None:
        a, b = math.exp(log_a), math.exp(log_b)
        if a + b > 0 and a + b >= self.minimum_label_mass:
            return Verdict(a / (a + b), a + b)
        self.counts["label_mass"] += 1
        return None

    def _example(self) -> Text:
        [(ids, letters)] = encode_questions(self.tokenizer, ["?"], self.chat)
        return Text(tuple(ids), (letters,))


@dataclass(kw_only=True, eq=False)
class ReplyGenerator(Model):
    """Reads log p(reply | prompt), the sum over the reply's own tokens."""

    def log_probabilities(
        self, prompts: Sequence[str], replies: Sequence[str]
    ) -> list[float | None]:
        """log p in nats; `None` without an answer, and for a reply without tokens."""
        encoded = encode_replies(self.tokenizer, prompts, replies, self.chat)
        texts = [_text_of(*own) for own in encoded]
        answers = iter(self._score_distinct([text for text in texts if text.wanted]))
        self.counts += Counter(empty=sum(not text.wanted for text in texts))
        scores = [next(answers) if text.wanted else None for text in texts]
        return [None if own is None else math.fsum(token for (token,) in own) for own in scores]

    def _example(self) -> Text:
        [(head, tail)] = encode_replies(self.tokenizer, ["?"], ["!"], self.chat)
        return _text_of(head, tail[:1])


def _text_of(head: list[int], tail: list[int]) -> Text:
    return Text((*head, *tail[:-1]), tuple((token,) for token in tail))

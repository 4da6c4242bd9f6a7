"""A judge and a generator on OpenAI-compatible servers; vLLM is the one they're tuned for."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from alignxplore_trl.judging.asking import LetterJudge, Model, ReplyGenerator, Scores, Text
from alignxplore_trl.run.endpoint import Endpoint, Refusal, Request
from alignxplore_trl.run.errors import UserError

Letters = Literal["token_ids", "top_logprobs"]
# As many as OpenAI's completions give.
_TOP = 5


@dataclass(kw_only=True, eq=False)
class ServedModel(Model):
    """A model behind servers, which are sent token ids. The attributes are those of `Endpoint`."""

    urls: Sequence[str]
    served_as: str
    key_variable: str | None = None
    concurrency: int = 64
    timeout: float = 120.0
    deadline: float = 900.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.endpoint = Endpoint(
            self.urls, self.served_as, self.key_variable,
            self.concurrency, self.timeout, self.deadline,
        )  # fmt: skip

    def load(self) -> None:
        example, problems = self._example(), []
        for url in self.endpoint.urls:
            one = copy(self.endpoint)
            one.urls = [url]
            [answer] = one.ask([self._request(example)])
            if isinstance(answer, Refusal):
                problems.append(f"{url}: {answer.reason} ({answer.said})")
        if problems:
            raise UserError(problems)

    def _score(self, texts: Sequence[Text]) -> list[Scores | str]:
        answers = self.endpoint.ask([self._request(text) for text in texts])
        return [own.reason if isinstance(own, Refusal) else own for own in answers]

    def _request(self, text: Text) -> Request[Scores]:
        """One token is generated behind the prompt, and isn't looked at."""
        # The prompts of a case begin alike, for as long as templates and descriptions go.
        key = str(text.ids[: len(text.ids) // 2])
        body = {"prompt": list(text.ids), "max_tokens": 1, "temperature": 0.0, **self._body(text)}
        return Request(key, body, partial(self._read, text))

    @abstractmethod
    def _body(self, text: Text) -> dict[str, object]:
        """The fields by which a server gives what is wanted of a text."""

    @abstractmethod
    def _read(self, text: Text, response: Any) -> Scores:
        """What is wanted of a text, from a response's JSON."""


@dataclass(kw_only=True, eq=False)
class ServedJudge(LetterJudge, ServedModel):
    """A judge that is read from the one token which a server generates.

    Attributes:
        letters: how these are asked for: `token_ids` (vLLM), or `top_logprobs` for servers that
            refuse a field they don't know.
    """

    letters: Letters = "token_ids"

    def _body(self, text: Text) -> dict[str, object]:
        if self.letters == "top_logprobs":
            return {"logprobs": _TOP}
        named = {"return_tokens_as_token_ids": True, "logprob_token_ids": list(text.wanted[0])}
        return {"logprobs": _TOP, **named}

    def _read(self, text: Text, response: Any) -> Scores:
        [choice] = response["choices"]
        listed = (choice.get("logprobs") or {}).get("top_logprobs")
        if not listed or not listed[0]:
            raise ValueError("no log-probabilities; without them, only judge=sampled is possible")
        tokens: dict[str, float] = listed[0]
        names = [(f"token_id:{token}", self._text_of(text, token)) for token in text.wanted[0]]
        found = [next((tokens[n] for n in own if n in tokens), None) for own in names]
        # One letter that isn't listed is less probable than those that are.
        least = min(tokens.values()) if found != [None, None] else float("-inf")
        scores = [least if own is None else own for own in found]
        if not sum(map(math.exp, scores)) < 1.001:
            raise ValueError(f"found log-probabilities {scores}")
        return [scores]

    def _text_of(self, text: Text, token: int) -> str:
        """The token where it stands: decoded alone, it could lose the blank before it."""
        before = list(text.ids[-4:])
        whole = str(self.tokenizer.decode([*before, token]))
        return whole.removeprefix(str(self.tokenizer.decode(before)))


@dataclass(kw_only=True, eq=False)
class ServedGenerator(ReplyGenerator, ServedModel):
    """A generator that is read from `prompt_logprobs`, for which vLLM is needed.

    A server computes the probabilities of the whole vocabulary for each token of a prompt: ask for
    fewer at once than of a judge.
    """

    concurrency: int = 16

    def _body(self, text: Text) -> dict[str, object]:
        return {"prompt": [*text.ids, *text.wanted[-1]], "prompt_logprobs": 0}

    def _read(self, text: Text, response: Any) -> Scores:
        [choice] = response["choices"]
        listed = choice["prompt_logprobs"]
        if len(listed) != len(text.ids) + 1:
            raise ValueError("found another number of tokens than were sent")
        rows = zip(text.wanted, listed[-len(text.wanted) :], strict=True)
        found: Scores = [[row[str(token)]["logprob"]] for (token,), row in rows]
        # vLLM writes -9999 for minus infinity, which JSON lacks.
        if not all(-9999 < own <= 1e-3 for (own,) in found):
            raise ValueError(f"found log-probabilities {found}")
        return found

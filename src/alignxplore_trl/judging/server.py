"""A judge and a generator on OpenAI-compatible servers; vLLM is the one they're tuned for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, Literal

from alignxplore_trl.judging.asking import LetterJudge, Model, ReplyGenerator, Scores, Text
from alignxplore_trl.judging.protocol import Layout
from alignxplore_trl.run.endpoint import Endpoint, Refusal, Request
from alignxplore_trl.run.errors import UserError

Letters = Literal["token_ids", "top_logprobs"]
# As many as OpenAI's completions give.
_TOP = 5


class ServedModel(Model):
    """A model behind servers, which are sent token ids; its tokenizer is read here."""

    def __init__(self, model: str, endpoint: Endpoint, letters: Letters = "token_ids") -> None:
        super().__init__(model)
        self.endpoint, self.letters = endpoint, letters

    def load(self, example: Text) -> None:
        problems = []
        for url in self.endpoint.urls:
            one = copy(self.endpoint)
            one.urls = [url]
            [answer] = one.ask([self._request(example)])
            if isinstance(answer, Refusal):
                problems.append(f"{url}: {answer.reason} ({answer.said})")
        if problems:
            raise UserError(problems)

    def score(self, texts: Sequence[Text]) -> list[Scores | str]:
        answers = self.endpoint.ask([self._request(text) for text in texts])
        return [own.reason if isinstance(own, Refusal) else own for own in answers]

    def _request(self, text: Text) -> Request[Scores]:
        """A prompt behind which one token is generated, which isn't looked at."""
        ids = list(text.ids)
        body: dict[str, object] = {"prompt": ids, "max_tokens": 1, "temperature": 0.0}
        read = partial(self._letters_of, text)
        if len(text.wanted[0]) == 1:
            last = text.wanted[-1][0]
            body |= {"prompt": [*ids, last], "prompt_logprobs": 0}
            read = partial(_replies_of, text)
        elif self.letters == "token_ids":
            body |= {"logprobs": _TOP, "return_tokens_as_token_ids": True}
            body |= {"logprob_token_ids": list(text.wanted[0])}
        else:
            body |= {"logprobs": _TOP}
        # The prompts of a case begin alike, for as long as templates and descriptions go.
        return Request(str(ids[: len(ids) // 2]), body, read)

    def _letters_of(self, text: Text, response: Any) -> Scores:
        [choice] = response["choices"]
        listed = (choice.get("logprobs") or {}).get("top_logprobs")
        if not listed or not listed[0]:
            raise ValueError("no log-probabilities; without them, only judge=sampled is possible")
        tokens: dict[str, float] = {name: _checked(value) for name, value in listed[0].items()}
        names = [(f"token_id:{token}", self._text_of(text, token)) for token in text.wanted[0]]
        found = [next((tokens[n] for n in own if n in tokens), None) for own in names]
        # One letter that isn't listed is less probable than those that are.
        least = min(tokens.values()) if found != [None, None] else float("-inf")
        scores = [least if own is None else own for own in found]
        if sum(map(math.exp, scores)) > 1.001:
            raise ValueError("found probabilities that add up to more than 1")
        return [scores]

    def _text_of(self, text: Text, token: int) -> str:
        """The token where it stands: decoded alone, it could lose the blank before it."""
        before = list(text.ids[-4:])
        whole = str(self.tokenizer.decode([*before, token]))
        return whole.removeprefix(str(self.tokenizer.decode(before)))


class ServedJudge(LetterJudge):
    """A judge that is read from the one token which a server generates.

    Of `model`, a folder or a name on the Hub, the tokenizer is read. `letters` is how these are
    asked for: `token_ids` (vLLM), or `top_logprobs` for servers that refuse a field they don't
    know. The other arguments are those of `LocalJudge` and `Endpoint`.
    """

    def __init__(
        self,
        model: str,
        prompts: str,
        urls: Sequence[str],
        served_as: str,
        chat: bool,
        key_variable: str | None = None,
        layout: Layout = "description_first",
        letters: Letters = "token_ids",
        concurrency: int = 64,
        timeout: float = 120.0,
        deadline: float = 900.0,
        minimum_label_mass: float = 0.5,
    ) -> None:
        endpoint = Endpoint(urls, served_as, key_variable, concurrency, timeout, deadline)
        served = ServedModel(model, endpoint, letters)
        super().__init__(served, chat, prompts, layout, minimum_label_mass)


class ServedGenerator(ReplyGenerator):
    """A generator that is read from `prompt_logprobs`, for which vLLM is needed.

    The arguments are those of `ServedJudge`. A server computes the probabilities of the whole
    vocabulary for each token of a prompt: ask for fewer at once than of a judge.
    """

    def __init__(
        self,
        model: str,
        urls: Sequence[str],
        served_as: str,
        chat: bool,
        key_variable: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        deadline: float = 900.0,
    ) -> None:
        endpoint = Endpoint(urls, served_as, key_variable, concurrency, timeout, deadline)
        super().__init__(ServedModel(model, endpoint), chat)


def _replies_of(text: Text, response: Any) -> Scores:
    [choice] = response["choices"]
    listed = choice["prompt_logprobs"]
    if len(listed) != len(text.ids) + 1:
        raise ValueError("found another number of tokens than were sent")
    rows = zip(text.wanted, listed[-len(text.wanted) :], strict=True)
    return [[_checked(row[str(token)]["logprob"])] for (token,), row in rows]


def _checked(value: Any) -> float:
    """A log-probability; vLLM writes -9999 for minus infinity, which JSON lacks."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -9999 < value <= 1e-3:
        raise ValueError(f"found {value!r}, expected a log-probability")
    return float(value)

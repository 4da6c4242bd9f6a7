"""A judge and a generator behind an OpenAI-compatible server; vLLM is the one they're tuned for."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase

from alignxplore_trl.judging.client import (
    CompletionsClient,
    Request,
    ServerSettings,
    Unanswered,
)
from alignxplore_trl.judging.encoding import EncodedQuestion, encode_questions, encode_replies
from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.written import WrittenResponse
from alignxplore_trl.text.rendering import Layout, PromptSet, Question

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

Letters = Literal["token_ids", "top_logprobs"]
# As many as OpenAI's completions give.
_TOP = 5
# vLLM's stand-in for minus infinity, which JSON lacks.
_MINUS_INFINITY = -9999.0
_ROUNDING = 1e-3

# A log-probability in nats. NaN, infinity and what is no probability are refused.
LogProbability = Annotated[float, Field(le=_ROUNDING, allow_inf_nan=False, strict=True)]


class ServerJudge:
    """Reads the probability of naming A against B from one generated token.

    The prompt is sent as token ids, the answer's JSON teacher-forced up to the letter, as
    `LocalJudge` does it. With `letters="token_ids"` the server gives the log-probabilities of the
    two letters' tokens (vLLM's `logprob_token_ids`). Servers that don't know this field answer with
    the most probable tokens; `letters="top_logprobs"` is for those that refuse it. A letter that
    is not among these is taken to be as probable as it can be, and is not counted as label mass.

    Args:
        tokenizer: that of the model which is served.
        prompts: the templates; the judgement template of the layout is used.
        settings: where the servers are, and how much is asked of them.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
        chat: send the prompt as a user's message through the tokenizer's chat template.
        letters: how the letters' probabilities are asked for.
        layout: where the description stands. Last, the rollouts of a case share post and replies,
            which a server with a prefix cache reads once.

    Raises:
        UserError: the environment variable for the key isn't set.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        settings: ServerSettings,
        *,
        minimum_label_mass: float = 0.5,
        chat: bool = False,
        letters: Letters = "token_ids",
        layout: Layout = "description_first",
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.minimum_label_mass = minimum_label_mass
        self.chat = chat
        self.letters = letters
        self.layout = layout
        self.client = CompletionsClient(settings)
        self._measurements = Measurements()

    def check(self) -> None:
        """Ask each server one made-up question, to be called before training.

        Raises:
            UserError: a server isn't there, refuses, or doesn't give log-probabilities.
        """
        [request] = self._requests([Question("A post.", None, "A reply.", "Another reply.")])
        self.client.check(request)

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; equal questions are asked once.

        `None` where no server answered by the deadline, the answer was none, the question is longer
        than the model's context, or the two letters have less than the minimum label mass. The
        reasons are counted. May be called where an event loop is running.
        """
        distinct = list(dict.fromkeys(questions))
        requests = dict(zip(distinct, self._requests(distinct), strict=True))
        verdicts = _ask(self.client, questions, requests, self._measurements)
        for verdict in filter(None, verdicts):
            self._measurements.label_masses.append(verdict.label_mass)
            self._measurements.probabilities_a.append(verdict.probability_a)
        return verdicts

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _requests(self, questions: Sequence[Question]) -> list[Request[Verdict]]:
        encoded = encode_questions(
            self.tokenizer, self.prompts, questions, chat=self.chat, layout=self.layout
        )
        return [
            Request(
                question.post,
                {**_one_token(own.token_ids), "logprobs": _TOP, **self._fields(own)},
                partial(self._read, own),
                tokens=len(own.token_ids) + 1,
            )
            for question, own in zip(questions, encoded, strict=True)
        ]

    def _fields(self, question: EncodedQuestion) -> dict[str, object]:
        if self.letters == "top_logprobs":
            return {}
        return {
            # Other servers give their most probable tokens.
            "logprob_token_ids": [question.letter_a, question.letter_b],
            "return_tokens_as_token_ids": True,
        }

    def _read(self, question: EncodedQuestion, content: bytes) -> Verdict | Unanswered:
        """The verdict of a response's bytes.

        Raises:
            ValueError: log-probabilities are missing, or are none.
        """
        [choice] = _Completion.model_validate_json(content).choices
        [listed] = choice.logprobs.top_logprobs
        a, b = (
            self._find(listed, question, each) for each in (question.letter_a, question.letter_b)
        )
        mass = (a or 0.0) + (b or 0.0)
        if mass > 1.0 + _ROUNDING:
            raise ValueError("found probabilities that add up to more than 1")
        if mass == 0.0 or mass < self.minimum_label_mass:
            return Unanswered("label_mass")
        at_most = min(math.exp(min(listed.values())), max(0.0, 1.0 - mass))
        a, b = (at_most if each is None else each for each in (a, b))
        return Verdict(a / (a + b), mass)

    def _find(
        self, listed: dict[str, float], question: EncodedQuestion, token_id: int
    ) -> float | None:
        """The token's probability, where it is listed by its id or, by other servers, its text."""
        found = listed.get(f"token_id:{token_id}")
        if found is None:
            found = listed.get(self._text_of(question, token_id))
        return None if found is None else math.exp(found)

    def _text_of(self, question: EncodedQuestion, token_id: int) -> str:
        """The token's text where it stands: decoded alone, it could lose the blank before it."""
        before = question.token_ids[-4:]
        text = str(self.tokenizer.decode([*before, token_id]))
        return text.removeprefix(str(self.tokenizer.decode(before)))


class ServerGenerator:
    """Log-probabilities of responses from a server, read as `prompt_logprobs`, token ids in.

    Args:
        tokenizer: that of the model which is served.
        prompts: the templates; the reply template is used.
        settings: where the servers are, and how much is asked of them. A server computes the
            probabilities of the whole vocabulary at each position of the prompt: ask for fewer
            requests at once than of a judge.
        max_tokens: a row longer than this is `None` and is not sent; `None`: as the server says.

    Raises:
        UserError: the environment variable for the key isn't set.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        settings: ServerSettings,
        *,
        max_tokens: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.max_tokens = max_tokens
        self.client = CompletionsClient(settings)
        self._measurements = Measurements()

    def check(self) -> None:
        """Ask each server about one made-up row, to be called before training.

        Raises:
            UserError: a server isn't there, refuses, or doesn't give log-probabilities.
        """
        [request] = self._requests([Continuation("A post.", None, "A reply.")])
        if isinstance(request, Request):
            self.client.check(request)

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        """log p of each of the response's own tokens, in nats; equal rows are asked once.

        `None` where no server answered by the deadline, the answer was none, or the row is too
        long. The reasons are counted. May be called where an event loop is running.
        """
        distinct = list(dict.fromkeys(rows))
        requests = dict(zip(distinct, self._requests(distinct), strict=True))
        return _ask(self.client, rows, requests, self._measurements)

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _requests(
        self, rows: Sequence[Continuation]
    ) -> list[Request[tuple[float, ...]] | Unanswered]:
        encoded = encode_replies(
            self.tokenizer,
            [self.prompts.reply(row.post, row.description) for row in rows],
            [row.response for row in rows],
        )
        return [
            self._request(row, head, tail) for row, (head, tail) in zip(rows, encoded, strict=True)
        ]

    def _request(
        self, row: Continuation, head: list[int], tail: list[int]
    ) -> Request[tuple[float, ...]] | Unanswered:
        if self.max_tokens is not None and len(head) + len(tail) > self.max_tokens:
            return Unanswered("too_long")
        return Request(
            row.post,
            {**_one_token(head + tail), "prompt_logprobs": 0},  # None beside the prompt's own.
            partial(_read_scores, head, tail),
            tokens=len(head) + len(tail) + 1,
        )


class ServerAnswerWriter:
    """Writes the answers of a sampled judge with a model on a server.

    With `chat`, through `/chat/completions`, which every vendor offers; reasoning that the server
    separates from the answer is left out. Without, through `/completions`. Other than local ones,
    the samples are others in each run: no seed is sent, for servers don't keep to it (the sums of a
    batch depend on what else is in it), and vLLM 0.31 on a CPU dies of it.

    Args:
        settings: where the servers are, and how much is asked of them.
        max_new_tokens: of an answer, reasoning included; what is cut off there may be unreadable.
        temperature: of the samples.
        chat: send the prompt as a user's message.
        answer_start: what every answer begins with; the model goes on from there.
        answer_end: what is put after what the model wrote.

    Raises:
        UserError: the environment variable for the key isn't set.
        ValueError: `answer_start` with `chat`: a message of the model can't be begun for it.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        max_new_tokens: int,
        temperature: float,
        chat: bool = False,
        answer_start: str = "",
        answer_end: str = "",
    ) -> None:
        if chat and answer_start:
            raise ValueError(f"answer_start: {answer_start!r} found, expected none with chat")
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.chat = chat
        self.answer_start = answer_start
        self.answer_end = answer_end
        self.client = CompletionsClient(settings)
        self._measurements = Measurements()

    def check(self, samples: int) -> None:
        """Ask each server for so many answers to one prompt, to be called before training.

        Raises:
            UserError: a server isn't there, refuses, or gives no text.
        """
        self.client.check(self._request("A post.", samples))

    def write(self, prompts: Sequence[str], samples: int) -> list[list[str] | None]:
        """`samples` answers to each prompt; equal prompts are asked once.

        `None` where no server answered by the deadline, or the answer was none. The reasons are
        counted.
        """
        requests = {prompt: self._request(prompt, samples) for prompt in dict.fromkeys(prompts)}
        return _ask(self.client, prompts, requests, self._measurements)

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _request(self, prompt: str, samples: int) -> Request[list[str]]:
        body: dict[str, object] = {
            "n": samples,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }
        read = partial(self._read, samples)
        if self.chat:
            body["messages"] = [{"role": "user", "content": prompt}]
            return Request(prompt, body, read, path="/chat/completions")
        return Request(prompt, body | {"prompt": prompt + self.answer_start}, read)

    def _read(self, samples: int, content: bytes) -> list[str]:
        """The answers in a response's bytes.

        Raises:
            ValueError: there are none, or another number of them.
        """
        response = WrittenResponse.from_bytes(content)
        texts = [choice.read() for choice in response.choices]
        if len(texts) != samples:
            raise ValueError(f"found {len(texts)} answers, expected {samples}")
        self._measurements.tokens += (response.usage and response.usage.total_tokens) or 0
        return [self.answer_start + text + self.answer_end for text in texts]


def _one_token(prompt: list[int]) -> dict[str, object]:
    """What asks for one token behind a prompt, and at temperature 0: it is not looked at."""
    return {"prompt": prompt, "max_tokens": 1, "temperature": 0.0}


class _ListedTokens(BaseModel):
    top_logprobs: Annotated[
        list[Annotated[dict[str, LogProbability], Field(min_length=1)]],
        Field(min_length=1, max_length=1),
    ]


class _GeneratedChoice(BaseModel):
    logprobs: _ListedTokens


class _Completion(BaseModel):
    """A response with one generated token and the tokens listed for it."""

    choices: Annotated[list[_GeneratedChoice], Field(min_length=1, max_length=1)]


class _ScoredToken(BaseModel):
    logprob: LogProbability


class _ScoredChoice(BaseModel):
    # By token id; `None` stands for the first token, which nothing precedes.
    prompt_logprobs: list[dict[int, _ScoredToken] | None]


class _ScoredPrompt(BaseModel):
    """A response with log-probabilities of the prompt's tokens."""

    choices: Annotated[list[_ScoredChoice], Field(min_length=1, max_length=1)]


def _read_scores(head: list[int], tail: list[int], content: bytes) -> tuple[float, ...]:
    """log p of each token of the tail, of a response's bytes.

    Raises:
        ValueError: log-probabilities are missing, are none, or belong to other tokens.
    """
    [choice] = _ScoredPrompt.model_validate_json(content).choices
    if len(choice.prompt_logprobs) != len(head) + len(tail):
        raise ValueError("found another number of tokens than were sent")
    scores = []
    for token_id, scored in zip(tail, choice.prompt_logprobs[len(head) :], strict=True):
        if scored is None or token_id not in scored:
            raise ValueError("found a position without the token that was sent")
        if (score := scored[token_id].logprob) <= _MINUS_INFINITY:
            raise ValueError("found a token without probability")
        scores.append(score)
    return tuple(scores)


def _ask(
    client: CompletionsClient,
    asked: Sequence[Asked],
    requests: Mapping[Asked, Request[Answer] | Unanswered],
    measurements: Measurements,
) -> list[Answer | None]:
    """The answers to what was asked, and everything counted."""
    sent = {each: request for each, request in requests.items() if isinstance(request, Request)}
    started = time.perf_counter()
    answers = client.ask(list(sent.values()), measurements)
    measurements.seconds += time.perf_counter() - started
    outcomes: dict[Asked, Answer | Unanswered] = {
        **{each: why for each, why in requests.items() if isinstance(why, Unanswered)},
        **dict(zip(sent, answers, strict=True)),
    }
    measurements.questions += len(asked)
    measurements.lookups += len(asked)
    measurements.hits += len(asked) - len(requests)
    reasons = Counter(
        outcome.reason for each in asked if isinstance(outcome := outcomes[each], Unanswered)
    )
    for reason, count in reasons.items():
        measurements.unanswered[reason] = measurements.unanswered.get(reason, 0) + count
    measurements.tokens += sum(
        request.tokens
        for each, request in sent.items()
        if not isinstance(outcomes[each], Unanswered)
    )
    return [
        None if isinstance(outcome := outcomes[each], Unanswered) else outcome for each in asked
    ]

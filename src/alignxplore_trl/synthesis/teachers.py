"""Who writes the candidates: a model in this process, in vLLM, or behind an endpoint."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.client import (
    CompletionsClient,
    Request,
    ServerRole,
    ServerSettings,
    Unanswered,
)
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.written import Usage, WrittenResponse
from alignxplore_trl.text.parsing import Inference, parse_completion

TEACHING = ServerRole(
    "teacher.server",
    "serve-teacher",
    malformed="the answer has no text; it has to be a server of OpenAI-compatible completions",
    refused="a server other than vLLM may need teacher.top_k=null, and one that only knows chats "
    "teacher.chat=true",
)
_OPEN_THINK = "<think>"
_PROBE_TOKENS = 16


@dataclass(frozen=True)
class Ask:
    """One text that a teacher is to write.

    Attributes:
        case_id: of the case that it is about.
        round: the round, from 1.
        number: of the candidate, or of the signal whose dimensions are asked for.
        prompt: the teacher's.
        kind: what is asked for.
    """

    case_id: str
    round: int
    number: int
    prompt: str
    kind: Literal["candidate", "dimensions"] = "candidate"


@dataclass(frozen=True)
class Written:
    """What a teacher wrote.

    Attributes:
        text: the answer.
        reasoning: what the server separated from it.
        finish_reason: why it ends, as a server says it: `stop`, `length`, ….
        prompt_tokens: that were read.
        completion_tokens: that were written, reasoning and the token that ends it included.
    """

    text: str
    reasoning: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


Arrival = tuple[Ask, Written | Unanswered]
Pull = Callable[[], Ask | None]
Keep = Callable[[Sequence[Arrival]], None]


class Teacher(Protocol):
    """A model that writes what it is asked for.

    Attributes:
        identity: what tells its texts from those of other models, or of other sampling.
        sampling: how it samples.
        chat: whether it is sent messages, and so opens its reasoning itself.
    """

    identity: str
    sampling: SamplingSettings
    chat: bool

    def count_tokens(self, text: str) -> int:
        """Length of a text in the teacher's tokens."""
        ...

    def check(self) -> None:
        """See that it can write, before it is asked to.

        Raises:
            UserError: it can't, and how to mend it.
        """
        ...

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """Write what `pull` gives, until it gives nothing and nothing is under way.

        Args:
            pull: the next thing to write, `None` if there is none at the moment.
            keep: is given each answer at once, from whatever thread it arrives in.
            seed: of sampling, where the teacher can be told one.

        Yields:
            What has arrived since the last time.
        """
        ...


def completion_of(written: Written, chat: bool) -> str:
    """The answer as the one parser reads it: from inside `<think>`, which a prompt has opened.

    A model that is sent messages opens `<think>` itself, or its server has taken the reasoning out.
    Where the answer has reasoning of its own in the form asked for, that is the one that counts.
    """
    text = written.text
    if chat and text.lstrip().startswith(_OPEN_THINK):
        text = text.lstrip().removeprefix(_OPEN_THINK)
    if written.reasoning is None or isinstance(parse_completion(text), Inference):
        return text
    return f" {written.reasoning.strip()} </think> {text}"


def as_message(prompt: str) -> str:
    """A prompt as a user's message: what it opens for the model to go on is the model's own."""
    return prompt.rstrip().removesuffix(_OPEN_THINK).rstrip()


def identity(model: str, sampling: SamplingSettings, **how: Any) -> str:
    """What a teacher's texts depend on, as text: the model, its sampling, how it is asked."""
    return json.dumps({"model": model, "sampling": asdict(sampling), **how}, sort_keys=True)


class LocalTeacher:
    """A causal language model in this process.

    Args:
        describer: samples completions.
        model: what tells it from other models.
        seed: part of what it writes.
        render: a message as the model's chat template has it; `None`: prompts as they are.
    """

    def __init__(
        self,
        describer: Describer,
        model: str,
        seed: int,
        render: Callable[[str], str] | None = None,
    ) -> None:
        self.describer = describer
        self.sampling = describer.sampling
        self.chat = render is not None
        self.identity = identity(model, self.sampling, chat=self.chat, seed=seed)
        self._render = render

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self.describer.count_tokens(text)

    def check(self) -> None:
        """Nothing to see: it is loaded."""

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """See `Teacher`. Prompts of similar length are sampled together, from one stream."""
        while asks := list(iter(pull, None)):
            prompts = [_sent(ask.prompt, self._render) for ask in asks]
            for batch in self.describer.complete_batches(prompts, seed):
                arrivals: list[Arrival] = [
                    (
                        asks[place],
                        Written(
                            completion.text,
                            None,
                            "stop" if completion.ended else "length",
                            self.count_tokens(prompts[place]),
                            completion.tokens + completion.ended,
                        ),
                    )
                    for place, completion in batch
                ]
                keep(arrivals)
                yield arrivals
            seed += 1


class VllmTeacher:
    """A model in vLLM in this process.

    Args:
        source: a folder, or a name on the Hub.
        sampling: how it samples.
        model: what tells it from other models.
        seed: of the engine.
        batch_size: prompts that are handed over at once; vLLM schedules them itself.
        chat: send prompts as messages through the model's chat template.
        engine: further arguments of `vllm.LLM`.
    """

    def __init__(
        self,
        source: str,
        sampling: SamplingSettings,
        model: str,
        *,
        seed: int,
        batch_size: int,
        chat: bool,
        engine: Mapping[str, Any],
    ) -> None:
        # Imported here: an extra, which other teachers do without.
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

        self.sampling = sampling
        self.chat = chat
        self.batch_size = batch_size
        self.identity = identity(model, sampling, chat=chat, seed=seed)
        self._engine = LLM(model=source, seed=seed, generation_config="vllm", **engine)
        self._tokenizer = self._engine.get_tokenizer()
        self._parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=sampling.max_new_tokens,
        )

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return len(self._tokenizer(text)["input_ids"])

    def check(self) -> None:
        """Nothing to see: it is loaded."""

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """See `Teacher`. The engine was given its seed when it was made."""
        while asks := list(islice(iter(pull, None), self.batch_size)):
            arrivals: list[Arrival] = list(zip(asks, self._written(asks), strict=True))
            keep(arrivals)
            yield arrivals

    def _written(self, asks: Sequence[Ask]) -> list[Written]:
        if self.chat:
            messages = [[{"role": "user", "content": as_message(ask.prompt)}] for ask in asks]
            outputs = self._engine.chat(messages, self._parameters, use_tqdm=False)
        else:
            prompts = [ask.prompt for ask in asks]
            outputs = self._engine.generate(prompts, self._parameters, use_tqdm=False)
        return [
            Written(
                output.outputs[0].text,
                None,
                output.outputs[0].finish_reason,
                len(output.prompt_token_ids),
                len(output.outputs[0].token_ids),
            )
            for output in outputs
        ]


class ServerTeacher:
    """A model behind an OpenAI-compatible endpoint: a vLLM server, or a vendor's.

    No seed is sent: servers don't keep to it, since the sums of a batch depend on what else is in
    it. So the texts are others in each run; the ones that were kept are not asked for again.

    Args:
        settings: where the servers are, and how much is asked of them.
        sampling: how they are to sample.
        count_tokens: length of a text in the model's tokens, where a server doesn't say.
        model: what tells it from other models that are served under the same name.
        chat: send prompts as messages, through `/chat/completions`.
        body: further fields of each request; `None` takes one of ours out.

    Raises:
        UserError: the environment variable for the key isn't set.
    """

    def __init__(
        self,
        settings: ServerSettings,
        sampling: SamplingSettings,
        count_tokens: Callable[[str], int],
        *,
        model: str,
        chat: bool,
        body: Mapping[str, Any],
    ) -> None:
        self.sampling = sampling
        self.chat = chat
        self.body = body
        self.client = CompletionsClient(settings)
        self.identity = identity(
            model, sampling, chat=chat, served_as=settings.model, body=dict(body)
        )
        self.measurements = Measurements()
        self._count_tokens = count_tokens
        self._is_checked = False

    def check(self) -> None:
        """Ask each server for one short text, once, before anything depends on it.

        Raises:
            UserError: a server isn't there, refuses, or gives no text.
        """
        if self._is_checked:
            return
        request = self._request(Ask("", 0, 0, f"Say hello.\n{_OPEN_THINK}"))
        limits = {"max_tokens", "max_completion_tokens"} & request.body.keys()
        short = {**request.body, **dict.fromkeys(limits, _PROBE_TOKENS)}
        self.client.check(replace(request, body=short))
        self._is_checked = True

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self._count_tokens(text)

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """See `Teacher`. Requests go on while what has arrived is being worked on."""
        arrived: queue.SimpleQueue[Arrival | Exception | None] = queue.SimpleQueue()
        stopped = threading.Event()

        def next_request() -> tuple[Ask, Request[Written]] | None:
            ask = None if stopped.is_set() else pull()
            return None if ask is None else (ask, self._request(ask))

        def take(ask: Ask, answer: Written | Unanswered) -> None:
            keep([(ask, answer)])
            arrived.put((ask, answer))

        def work() -> None:
            try:
                self.client.ask_each(next_request, take, self.measurements)
            except Exception as error:  # Raised where the answers are waited for.
                arrived.put(error)
            else:
                arrived.put(None)

        # A daemon: Ctrl-C needn't wait for answers that are under way.
        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                batch = [arrived.get()]
                while not arrived.empty():
                    batch.append(arrived.get())
                yield [each for each in batch if isinstance(each, tuple)]
                for last in batch:
                    if isinstance(last, Exception):
                        raise last
                    if last is None:
                        return
        finally:
            stopped.set()

    def _request(self, ask: Ask) -> Request[Written]:
        sampling = self.sampling
        body: dict[str, object] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
        if self.chat:
            body["messages"] = [{"role": "user", "content": as_message(ask.prompt)}]
        else:
            body["prompt"] = ask.prompt
        sent = {key: value for key, value in {**body, **self.body}.items() if value is not None}
        path = "/chat/completions" if self.chat else "/completions"
        return Request(ask.case_id, sent, partial(self._read, ask), path=path)

    def _read(self, ask: Ask, content: bytes) -> Written:
        """What was written, of a response's bytes.

        Raises:
            ValueError: there is not exactly one answer.
        """
        response = WrittenResponse.from_bytes(content)
        if len(response.choices) != 1:
            raise ValueError(f"found {len(response.choices)} answers, expected 1")
        [choice] = response.choices
        text, usage = choice.read(), response.usage or Usage()
        read, written = usage.prompt_tokens, usage.completion_tokens
        return Written(
            text,
            choice.reasoning,
            choice.finish_reason,
            self._count_tokens(ask.prompt) if read is None else read,
            self._count_tokens((choice.reasoning or "") + text) if written is None else written,
        )


def _sent(prompt: str, render: Callable[[str], str] | None) -> str:
    return prompt if render is None else render(as_message(prompt))

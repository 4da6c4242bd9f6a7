"""A judge on this machine: any causal language model, read at the letter of its answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignxplore_trl.judging.encoding import encode_questions
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.prefixes import (
    PrefixSharingModel,
    Reading,
    common_prefix,
)
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.text.rendering import Layout, PromptSet, Question


class LocalJudge:
    """Reads the probability of naming A against B from one forward pass.

    The judge's answer `{"selection": "Response A"}` is teacher-forced up to the letter. Which
    tokens the letters are, and where the answers part, is found in the judge's own tokenizer.
    What questions begin with alike is computed once: the instructions once for all calls, and a
    description and post, or a post and its replies, once per call.

    Args:
        model: a causal language model, used without gradients.
        tokenizer: its tokenizer.
        prompts: the templates; the judgement template of the layout is used.
        max_batch_tokens: slots of a forward pass, those of shared prefixes and padding included;
            one question may exceed it.
        minimum_label_mass: a verdict with less probability on the two letters together is `None`.
        chat: send the prompt as a user's message through the tokenizer's chat template.
        layout: where the description stands. Last lets the rollouts of a case share post and
            replies; whether a judge reads it as well has to be measured.

    Raises:
        UserError: the prompts have no template of this layout.
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
        layout: Layout = "description_first",
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.minimum_label_mass = minimum_label_mass
        self.chat = chat
        self.layout = layout
        self._model = PrefixSharingModel(model, max_batch_tokens)
        self._instructions = [
            common_prefix(lambda text: self._read([Question(text, text, text, text)])[0].ids),
            common_prefix(lambda text: self._read([Question(text, None, text, text)])[0].ids),
        ]
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
        layout: Layout = "description_first",
        attn_implementation: str | None = None,
    ) -> LocalJudge:
        """Load a judge and its tokenizer from a folder or the name of a model.

        `attn_implementation` is a name that transformers knows; by default flash attention where it
        is installed and the numbers have 16 bits, and PyTorch's own attention elsewhere.
        """
        return cls(
            load_model(folder, dtype=dtype, device=device, attn_implementation=attn_implementation),
            AutoTokenizer.from_pretrained(folder),
            prompts,
            max_batch_tokens=max_batch_tokens,
            minimum_label_mass=minimum_label_mass,
            chat=chat,
            layout=layout,
        )

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question; equal questions are asked once.

        `None` where the question is longer than the model's context ("too_long") or the two letters
        together have less than the minimum label mass ("label_mass").
        """
        started = time.perf_counter()
        distinct = list(dict.fromkeys(questions))
        found = dict(zip(distinct, self._judge_distinct(distinct), strict=True))
        answers = [found[question] for question in questions]
        verdicts = [answer for answer in answers if isinstance(answer, Verdict)]
        self._measurements += Measurements(
            seconds=time.perf_counter() - started,
            questions=len(questions),
            lookups=len(questions),
            hits=len(questions) - len(distinct),
            unanswered=dict(Counter(answer for answer in answers if isinstance(answer, str))),
            label_masses=[verdict.label_mass for verdict in verdicts],
            probabilities_a=[verdict.probability_a for verdict in verdicts],
        )
        return [answer if isinstance(answer, Verdict) else None for answer in answers]

    def take_measurements(self) -> Measurements:
        """What happened since this was last called; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken

    def _judge_distinct(self, questions: Sequence[Question]) -> list[Verdict | str]:
        """Verdicts, or the reasons why there are none."""
        if not questions:
            return []
        readings = self._read(questions)
        fitting = [n for n, own in enumerate(readings) if len(own.ids) <= self._model.context]
        answers = self._model.log_probabilities(
            [readings[number] for number in fitting], self._instructions, self._measurements
        )
        found: list[Verdict | str] = ["too_long"] * len(questions)
        for number, [(letter_a, letter_b)] in zip(fitting, answers, strict=True):
            found[number] = self._verdict(math.exp(letter_a), math.exp(letter_b))
        return found

    def _read(self, questions: Sequence[Question]) -> list[Reading]:
        """Token ids up to where the two answers part, and the tokens with which they go on."""
        encoded = encode_questions(
            self.tokenizer, self.prompts, questions, chat=self.chat, layout=self.layout
        )
        return [Reading(tuple(own.token_ids), ((own.letter_a, own.letter_b),)) for own in encoded]

    def _verdict(self, probability_a: float, probability_b: float) -> Verdict | str:
        mass = probability_a + probability_b
        if not mass >= self.minimum_label_mass:
            return "label_mass"
        return Verdict(probability_a / mass, mass)

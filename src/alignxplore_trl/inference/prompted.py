"""Language models that are prompted for descriptions (METHOD: Evaluation, methods compared)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignxplore_trl.baselines.language_model import LanguageModel, question
from alignxplore_trl.inference.describing import Completion
from alignxplore_trl.judging.written import Written, completion_of
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.parsing import (
    FormatProblem,
    Inference,
    parse_completion,
    parse_description,
)
from alignxplore_trl.text.rendering import PromptSet


class PromptedDescriber:
    """Asks a language model for descriptions as a policy is asked; see `DescriptionWriter`.

    Args:
        model: the language model.
        render: signals and the earlier description -> prompt.
        read: what it wrote -> the description.
        temperature: of sampling.
        max_prompt_tokens: the budget that prompts are shortened to, by rule.
    """

    def __init__(
        self,
        model: LanguageModel,
        render: Callable[[Sequence[Signal], str | None], str],
        read: Callable[[str], Inference | FormatProblem],
        *,
        temperature: float,
        max_prompt_tokens: int,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.max_prompt_tokens = max_prompt_tokens
        self._render = render
        self._read = read

    def prompt(self, signals: Sequence[Signal], earlier: str | None) -> str:
        """What the model is asked with."""
        return self._render(signals, earlier)

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self.model.count_tokens(text)

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion | None]:
        """One completion per prompt, from inside `<think>`; `None` where there is no answer."""
        answers = self.model.answer(
            [question(prompt) for prompt in prompts], temperature=self.temperature, seed=seed
        )
        return [None if own is None else self._completion(own) for own in answers]

    def read(self, completion: str) -> Inference | FormatProblem:
        """What the model wrote."""
        return self._read(completion)

    def _completion(self, written: Written) -> Completion:
        text = completion_of(written, self.model.chat)
        # The token that ends an answer is none of a completion's.
        return Completion(text, written.completion_tokens - written.ended, written.ended)


def prompted_reasoning(
    model: LanguageModel, prompts: PromptSet, *, temperature: float, max_prompt_tokens: int
) -> PromptedDescriber:
    """A language model that is given the policy's own prompt, and read by the policy's parser."""
    return PromptedDescriber(
        model,
        prompts.inference,
        parse_completion,
        temperature=temperature,
        max_prompt_tokens=max_prompt_tokens,
    )


def prompted_concise(
    model: LanguageModel, prompts: PromptSet, *, temperature: float, max_prompt_tokens: int
) -> PromptedDescriber:
    """A language model that is asked for the description at once, without reasoning.

    Raises:
        UserError: the prompt set has no template for it.
    """
    prompts.concise([], None)  # Missed now, and not after other methods have run for hours.
    return PromptedDescriber(
        model,
        prompts.concise,
        parse_description,
        temperature=temperature,
        max_prompt_tokens=max_prompt_tokens,
    )

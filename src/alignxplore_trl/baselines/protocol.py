"""What every compared method hands to the evaluation: a description of each user, or a decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignxplore_trl.text.parsing import FormatProblem, Inference


@dataclass(frozen=True)
class UserDescription:
    """What a method says about the user of one case.

    Attributes:
        case_id: the case that is described.
        description: what judges read. `None` asks them without a description, unless
            `format_problem` says that the method meant to write one and failed.
        reasoning: the reasoning the description was drawn from, where the method writes one.
        format_problem: why the completion is not an inference; `None` when it is one, and for
            methods that write no completion.
        earlier: the earlier description that the method read, in a streaming setting.
        completion: the text a model wrote; `None` for methods that write none.
        completion_tokens: its length in tokens of the model that wrote it.
        ended: whether the completion ended by itself, not at the limit of new tokens.
        dropped_signals: signals that the token budget kept from the model, over all rounds.
        shortened_texts: texts of signals that the token budget cut, over all rounds.
        prompt_tokens: length of the prompt of the last round, in tokens of the model.
        seconds: that the last round's completion took, as a share of its batch's time.
    """

    case_id: str
    description: str | None
    reasoning: str | None = None
    format_problem: FormatProblem | None = None
    earlier: str | None = None
    completion: str | None = None
    completion_tokens: int | None = None
    ended: bool | None = None
    dropped_signals: int = 0
    shortened_texts: int = 0
    prompt_tokens: int | None = None
    seconds: float | None = field(default=None, compare=False)

    @classmethod
    def from_completion(
        cls,
        case_id: str,
        completion: str,
        parsed: Inference | FormatProblem,
        tokens: int,
        ended: bool,
        earlier: str | None = None,
        dropped_signals: int = 0,
        shortened_texts: int = 0,
        prompt_tokens: int | None = None,
        seconds: float | None = None,
    ) -> UserDescription:
        """What a language model wrote about a user, and how the parser read it."""
        inference = parsed if isinstance(parsed, Inference) else None
        return cls(
            case_id=case_id,
            description=inference.description if inference else None,
            reasoning=(inference.reasoning or None) if inference else None,
            format_problem=parsed if isinstance(parsed, FormatProblem) else None,
            earlier=earlier,
            completion=completion,
            completion_tokens=tokens,
            ended=ended,
            dropped_signals=dropped_signals,
            shortened_texts=shortened_texts,
            prompt_tokens=prompt_tokens,
            seconds=seconds,
        )


@dataclass(frozen=True)
class Decision:
    """What a method that asks no judge decides about one case.

    `probability_chosen` is the method's probability that the user prefers the reply the user did
    prefer; one half is a tie, `None` says that the method could not decide.
    """

    case_id: str
    probability_chosen: float | None

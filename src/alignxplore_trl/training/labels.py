"""The tokens of a cold-start example, and which of them the loss sees."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100


@dataclass(frozen=True)
class LabelledTokens:
    """An example as the model is trained on it.

    Attributes:
        input_ids: prompt, completion and end-of-text token.
        labels: `IGNORED_LABEL` where the loss is masked, otherwise the token itself.
    """

    input_ids: list[int]
    labels: list[int]


def label_tokens(
    prompt: str, completion: str | None, tokenizer: PreTrainedTokenizerBase
) -> LabelledTokens:
    """Tokenise an example: the prompt is masked, the completion and its end are trained on.

    The prompt's tokens are those that generation will see; the completion's are appended, and after
    them the end-of-text token. The two are not tokenised as one text, because tokens could then
    merge across the border.

    Args:
        prompt: as the model reads it.
        completion: the end-of-text token not included; `None` gives the prompt alone.
        tokenizer: with an end-of-text token.
    """
    read = list(tokenizer(prompt)["input_ids"])
    written: list[int] = []
    if completion is not None:
        written = [
            *tokenizer(completion, add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
    return LabelledTokens(read + written, [IGNORED_LABEL] * len(read) + written)

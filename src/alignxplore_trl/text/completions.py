"""The completion format: how an inference is written, and the one parser that reads it back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prompts show the format with these words; a completion that answers with them has copied them.
REASONING_PLACEHOLDER = "your reasoning"
DESCRIPTION_PLACEHOLDER = "your description of this user's preferences"
# Blanks are never tried twice, so this is linear on any text.
_TAG = re.compile(r"<\s*+(/?)\s*+(think|answer)\s*+>", re.IGNORECASE)


class FormatProblem(StrEnum):
    """Why a completion is not an inference. Each earns reward 0 and is counted by name."""

    THINK_NOT_CLOSED = "think_not_closed"
    NO_ANSWER = "no_answer"
    ANSWER_NOT_CLOSED = "answer_not_closed"
    REPEATED_TAG = "repeated_tag"
    TAGS_OUT_OF_ORDER = "tags_out_of_order"
    TEXT_BEFORE_ANSWER = "text_before_answer"
    TEXT_AFTER_ANSWER = "text_after_answer"
    EMPTY_REASONING = "empty_reasoning"
    EMPTY_DESCRIPTION = "empty_description"
    PLACEHOLDER_ECHOED = "placeholder_echoed"


# The tags of a well-formed completion, in order, and what it means when one is missing.
_EXPECTED = {
    "</think>": FormatProblem.THINK_NOT_CLOSED,
    "<answer>": FormatProblem.NO_ANSWER,
    "</answer>": FormatProblem.ANSWER_NOT_CLOSED,
}


@dataclass(frozen=True)
class Inference:
    """What a model wrote about a user; the reasoning is empty where it was asked for none."""

    reasoning: str
    description: str


def format_completion(inference: Inference) -> str:
    """Write an inference as a model is taught to, from inside the `<think>` of its prompt."""
    return f" {inference.reasoning} </think> <answer> {inference.description} </answer>"


def parse_completion(completion: str) -> Inference | FormatProblem:
    """Read a completion `r </think> <answer> d </answer>` (the format reward R_format).

    The case of a tag and white space don't matter. Linear in the text's length; never raises.
    """
    texts, tags = _split(completion)
    if tags != list(_EXPECTED):
        return _structure_problem(tags)
    reasoning, before, description, after = map(str.strip, texts)
    if before:
        return FormatProblem.TEXT_BEFORE_ANSWER
    if after:
        return FormatProblem.TEXT_AFTER_ANSWER
    return _checked(reasoning, description) if reasoning else FormatProblem.EMPTY_REASONING


def parse_description(completion: str) -> Inference | FormatProblem:
    """Read what a model wrote that was asked for the description alone, without reasoning.

    That is what stands between `<answer>` and `</answer>`, whatever stands around them; without
    `<answer>`, which the prompt may have opened, all before `</answer>`; without both tags, all
    there is. What comes before the last `</think>` is reasoning. Linear; never raises.
    """
    texts, tags = _split(completion)
    thought = max((n for n, tag in enumerate(tags, 1) if tag == "</think>"), default=0)
    rest = tags[thought:]
    if "<think>" in rest:
        return FormatProblem.THINK_NOT_CLOSED
    if rest not in ([], ["</answer>"], ["<answer>", "</answer>"]):
        return _structure_problem(["</think>", *rest])
    description = texts[thought + (len(rest) == 2)]
    return _checked(" ".join(texts[:thought]).strip(), description.strip())


def tags_survive(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Say which tags are lost where texts are decoded without special tokens, as for rewards."""
    problems = []
    for tag in ("<think>", *_EXPECTED):
        ids = tokenizer.encode(f"a {tag} b", add_special_tokens=False)
        if _split(str(tokenizer.decode(ids, skip_special_tokens=True)))[1] != [tag]:
            lost = f"{tag} of the format is lost in decoding, so that every reward would be 0"
            problems.append(f"{lost}: make it an ordinary added token, not a special one")
    return problems


def _split(text: str) -> tuple[list[str], list[str]]:
    """The texts around the tags, and the tags."""
    pieces = _TAG.split(text)
    tags = zip(pieces[1::3], pieces[2::3], strict=True)
    return pieces[::3], [f"<{slash}{name.lower()}>" for slash, name in tags]


def _checked(reasoning: str, description: str) -> Inference | FormatProblem:
    if not re.search(r"\w", description):
        return FormatProblem.EMPTY_DESCRIPTION
    echoed = description.strip(" .[]()").lower() == DESCRIPTION_PLACEHOLDER
    return FormatProblem.PLACEHOLDER_ECHOED if echoed else Inference(reasoning, description)


def _structure_problem(tags: list[str]) -> FormatProblem:
    if "<think>" in tags or len(set(tags)) < len(tags):
        return FormatProblem.REPEATED_TAG
    missing = (problem for tag, problem in _EXPECTED.items() if tag not in tags)
    return next(missing, FormatProblem.TAGS_OUT_OF_ORDER)

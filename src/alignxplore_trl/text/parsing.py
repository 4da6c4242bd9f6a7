"""The completion format: how an inference is written, and the one parser that reads it back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

# Prompts that show the format put these words where the model's own belong. A completion that
# answers with them has copied the prompt instead of describing the user.
REASONING_PLACEHOLDER = "your reasoning"
DESCRIPTION_PLACEHOLDER = "your description of this user's preferences"

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>", re.IGNORECASE)
_WELL_FORMED = ["</think>", "<answer>", "</answer>"]


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


@dataclass(frozen=True)
class Inference:
    """What the model wrote about a user: its reasoning and the preference description.

    The reasoning is empty where a model was asked for the description alone and wrote none.
    """

    reasoning: str
    description: str


def format_completion(inference: Inference) -> str:
    """Write an inference the way the model is taught to: the inverse of `parse_completion`.

    The prompt has already opened `<think>`, so the text starts inside it.
    """
    return f" {inference.reasoning} </think> <answer> {inference.description} </answer>"


def parse_completion(completion: str) -> Inference | FormatProblem:
    """Read a completion `r </think> <answer> d </answer>` (METHOD: format reward R_format).

    White space around the parts does not matter, nor do the case of a tag or blanks in it: a tag
    that a reader would take for one counts as one. Never raises.
    """
    tags = list(_TAG.finditer(completion))
    names = [f"<{match[1]}{match[2].lower()}>" for match in tags]
    if names != _WELL_FORMED:
        return _structure_problem(names)
    think_end, answer_start, answer_end = tags
    reasoning = completion[: think_end.start()].strip()
    description = completion[answer_start.end() : answer_end.start()].strip()
    if completion[think_end.end() : answer_start.start()].strip():
        return FormatProblem.TEXT_BEFORE_ANSWER
    if completion[answer_end.end() :].strip():
        return FormatProblem.TEXT_AFTER_ANSWER
    if not reasoning:
        return FormatProblem.EMPTY_REASONING
    return _description_problem(description) or Inference(reasoning, description)


def parse_description(completion: str) -> Inference | FormatProblem:
    """Read what a model wrote that was asked for the description alone, without reasoning.

    The description is what stands between `<answer>` and `</answer>`, whatever stands around them.
    Without `<answer>`, which the prompt may have opened, it is all that stands before `</answer>`;
    without both tags, all there is. What comes before the last `</think>` is reasoning that the
    model wrote all the same, and no part of it. Never raises.
    """
    tags = [(match, f"<{match[1]}{match[2].lower()}>") for match in _TAG.finditer(completion)]
    thought = max((match.end() for match, name in tags if name == "</think>"), default=0)
    rest = [(match, name) for match, name in tags if match.start() >= thought]
    names = [name for _, name in rest]
    start, end = thought, len(completion)
    if names == ["<answer>", "</answer>"]:
        start, end = rest[0][0].end(), rest[1][0].start()
    elif names == ["</answer>"]:
        end = rest[0][0].start()
    elif names:
        return _answer_problem(names)
    description = completion[start:end].strip()
    reasoning = _TAG.sub(" ", completion[:thought]).strip()
    return _description_problem(description) or Inference(reasoning, description)


def _description_problem(description: str) -> FormatProblem | None:
    if not re.search(r"\w", description):
        return FormatProblem.EMPTY_DESCRIPTION
    if description.strip(" .[]()").lower() == DESCRIPTION_PLACEHOLDER:
        return FormatProblem.PLACEHOLDER_ECHOED
    return None


def _answer_problem(names: list[str]) -> FormatProblem:
    """Name what is wrong with the tags behind the reasoning, where it was not asked for."""
    if "<think>" in names:
        return FormatProblem.THINK_NOT_CLOSED
    if len(set(names)) < len(names):
        return FormatProblem.REPEATED_TAG
    if "</answer>" not in names:
        return FormatProblem.ANSWER_NOT_CLOSED
    return FormatProblem.TAGS_OUT_OF_ORDER


def _structure_problem(names: list[str]) -> FormatProblem:
    """Name what is wrong with a sequence of tags that is not the expected one."""
    if "<think>" in names or len(set(names)) < len(names):
        return FormatProblem.REPEATED_TAG
    if "</think>" not in names:
        return FormatProblem.THINK_NOT_CLOSED
    if "<answer>" not in names:
        return FormatProblem.NO_ANSWER
    if "</answer>" not in names:
        return FormatProblem.ANSWER_NOT_CLOSED
    return FormatProblem.TAGS_OUT_OF_ORDER

"""The parser of completions: it never fails, never guesses, and reads back what was written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alignxplore_trl.text.completions import (
    DESCRIPTION_PLACEHOLDER,
    REASONING_PLACEHOLDER,
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
    parse_description,
    tags_survive,
)

ANY_TAG = re.compile(r"<\s*/?\s*(think|answer)\s*>", re.IGNORECASE)
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "</ THINK >", "< answer>", "<Answer>", "<", ">",
    "</", "think", "likes jokes", " ", "\n", "…", "{}", "ſ", DESCRIPTION_PLACEHOLDER,
]  # fmt: skip
with_tags = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
clean = (
    st.text(min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not ANY_TAG.search(text) and not text.endswith("<"))
)
descriptions = clean.filter(
    lambda text: re.search(r"\w", text) and DESCRIPTION_PLACEHOLDER not in text.lower()
)
COPIED = Inference(REASONING_PLACEHOLDER, f"[{DESCRIPTION_PLACEHOLDER.title()}].")
BACKBONE = Path(__file__).parents[2] / "assets" / "backbone"


@settings(deadline=None)
@given(st.text() | with_tags)
@example(" a </think> <answer> b </answer>")
def test_whatever_is_written_is_read_or_named(completion: str) -> None:
    for read in (parse_completion(completion), parse_description(completion)):
        if isinstance(read, Inference):
            assert re.search(r"\w", read.description)
            assert not ANY_TAG.search(read.description + read.reasoning)
        else:
            assert isinstance(read, FormatProblem)


@settings(deadline=None)
@given(clean, descriptions)
@example("a < b", "likes > than, 1 < 2, *stars* and {{ braces }}")
@example("the user <thinks> a lot", "likes <answers>")
def test_a_written_inference_is_read_back(reasoning: str, description: str) -> None:
    inference = Inference(reasoning, description)
    assert parse_completion(format_completion(inference)) == inference
    assert parse_description(format_completion(inference)) == inference
    assert parse_description(description) == Inference("", description)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("r", FormatProblem.THINK_NOT_CLOSED),
        ("r </think> d", FormatProblem.NO_ANSWER),
        ("r </think> <answer> d", FormatProblem.ANSWER_NOT_CLOSED),
        ("<think> r </think> <answer> d </answer>", FormatProblem.REPEATED_TAG),
        ("r </think> <answer> d < / ANSWER > </answer>", FormatProblem.REPEATED_TAG),
        ("<answer> d </answer> r </think>", FormatProblem.TAGS_OUT_OF_ORDER),
        ("r </think> so <answer> d </answer>", FormatProblem.TEXT_BEFORE_ANSWER),
        ("r </think> <answer> d </answer> bye", FormatProblem.TEXT_AFTER_ANSWER),
        (" </think> <answer> d </answer>", FormatProblem.EMPTY_REASONING),
        ("r </think> <answer> … </answer>", FormatProblem.EMPTY_DESCRIPTION),
        (format_completion(COPIED), FormatProblem.PLACEHOLDER_ECHOED),
        (" r </think>\n\n<ANSWER>d</answer >\n", Inference("r", "d")),
    ],
)
def test_each_problem_has_its_name(completion: str, expected: object) -> None:
    assert parse_completion(completion) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Here: <answer>likes jokes</answer> Anything else?", Inference("", "likes jokes")),
        (" likes jokes </answer>", Inference("", "likes jokes")),  # The prompt had opened it.
        ("<think> hm </think> likes jokes", Inference("hm", "likes jokes")),
        ("<answer> </answer> likes jokes", FormatProblem.EMPTY_DESCRIPTION),
        ("<think> hm", FormatProblem.THINK_NOT_CLOSED),
        ("<answer> likes jokes", FormatProblem.ANSWER_NOT_CLOSED),
        ("a </answer> b <answer>", FormatProblem.TAGS_OUT_OF_ORDER),
    ],
)
def test_a_description_that_was_asked_for_alone(completion: str, expected: object) -> None:
    assert parse_description(completion) == expected


FILLERS = ["<", "</", " ", "\n", "<" + " " * 9, "< /", "<think", "<answer> ", "</think>", "*", "."]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("filler", FILLERS)
def test_degenerate_completions_are_read_in_linear_time(filler: str) -> None:
    """A quadratic reader takes an hour for this."""
    for text in (filler * (200_000 // len(filler)), "<" + filler * (200_000 // len(filler))):
        parse_completion(text)
        parse_description(text)


def test_tags_that_a_tokenizer_loses_are_named() -> None:
    assert tags_survive(AutoTokenizer.from_pretrained(BACKBONE)) == []
    inner = Tokenizer.from_file(str(BACKBONE / "tokenizer.json"))
    for tag in ("<think>", "</answer>"):
        inner.add_special_tokens([AddedToken(tag, special=True)])
    lost = tags_survive(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))
    assert [text.split()[0] for text in lost] == ["<think>", "</answer>"]

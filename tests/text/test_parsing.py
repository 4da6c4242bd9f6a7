"""The parser of completions: it never fails, never guesses, and reads back what was written."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignxplore_trl.text.parsing import (
    DESCRIPTION_PLACEHOLDER,
    REASONING_PLACEHOLDER,
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
    parse_description,
)

ANY_TAG = re.compile(r"<\s*/?\s*(think|answer)\s*>", re.IGNORECASE)
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "</ THINK >", "< answer>", "<Answer>", "<", ">",
    "</", "think", "likes jokes", " ", "\n", "…", "{}", "ſ", DESCRIPTION_PLACEHOLDER,
]  # fmt: skip
completions_with_tags = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
clean_texts = (
    st.text(min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not ANY_TAG.search(text) and not text.endswith("<"))
)
clean_descriptions = clean_texts.filter(
    lambda text: re.search(r"\w", text) and DESCRIPTION_PLACEHOLDER not in text.lower()
)


@given(st.text() | completions_with_tags)
def test_no_completion_crashes_the_parser(completion):
    assert isinstance(parse_completion(completion), Inference | FormatProblem)


@given(clean_texts, clean_descriptions)
@example("a < b", "likes > than, 1 < 2, *stars* and {{ braces }}")
@example("the user <thinks> a lot", "likes <answers>")
def test_a_written_inference_is_read_back(reasoning, description):
    inference = Inference(reasoning, description)
    assert parse_completion(format_completion(inference)) == inference


@given(completions_with_tags)
@example(" a </think> <answer> b </answer>")
def test_what_is_read_never_contains_a_tag(completion):
    parsed = parse_completion(completion)
    if isinstance(parsed, Inference):
        assert not ANY_TAG.search(parsed.description)
        assert not ANY_TAG.search(parsed.reasoning)
        assert parsed.reasoning
        assert parsed.description


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("r", FormatProblem.THINK_NOT_CLOSED),
        ("", FormatProblem.THINK_NOT_CLOSED),
        ("r <answer> d </answer>", FormatProblem.THINK_NOT_CLOSED),
        ("r </think> d", FormatProblem.NO_ANSWER),
        ("r </think> <answer> d", FormatProblem.ANSWER_NOT_CLOSED),
        ("<think> r </think> <answer> d </answer>", FormatProblem.REPEATED_TAG),
        ("r </think> <answer> d </answer> <answer> e </answer>", FormatProblem.REPEATED_TAG),
        ("r </think> <answer> d < / ANSWER > </answer>", FormatProblem.REPEATED_TAG),
        ("<answer> d </answer> r </think>", FormatProblem.TAGS_OUT_OF_ORDER),
        ("r </think> so <answer> d </answer>", FormatProblem.TEXT_BEFORE_ANSWER),
        ("r </think> <answer> d </answer> bye", FormatProblem.TEXT_AFTER_ANSWER),
        (" </think> <answer> d </answer>", FormatProblem.EMPTY_REASONING),
        ("r </think> <answer> \n </answer>", FormatProblem.EMPTY_DESCRIPTION),
        ("r </think> <answer> … </answer>", FormatProblem.EMPTY_DESCRIPTION),
        (
            f"r </think> <answer> [{DESCRIPTION_PLACEHOLDER.title()}]. </answer>",
            FormatProblem.PLACEHOLDER_ECHOED,
        ),
        (" r </think>\n\n<ANSWER>d</answer >\n", Inference("r", "d")),
        ("1 < 2 </think> <answer> a > b </answer>", Inference("1 < 2", "a > b")),
    ],
)
def test_each_problem_has_its_name(completion, expected):
    assert parse_completion(completion) == expected


def test_copying_the_format_from_the_prompt_is_no_inference():
    copied = format_completion(Inference(REASONING_PLACEHOLDER, DESCRIPTION_PLACEHOLDER))
    assert parse_completion(copied) is FormatProblem.PLACEHOLDER_ECHOED


ALONE = {
    "likes jokes": Inference("", "likes jokes"),
    " <answer> likes jokes </answer> ": Inference("", "likes jokes"),
    "Here: <answer>likes jokes</answer> Anything else?": Inference("", "likes jokes"),
    # The prompt had opened it.
    " likes jokes </answer>": Inference("", "likes jokes"),
    "<think> hm </think> likes jokes": Inference("hm", "likes jokes"),
    " hm </think> <answer> likes jokes </answer>": Inference("hm", "likes jokes"),
    "<think> <answer> x </answer> </think> likes jokes": Inference("x", "likes jokes"),
    "": FormatProblem.EMPTY_DESCRIPTION,
    " … ": FormatProblem.EMPTY_DESCRIPTION,
    "<answer> </answer> likes jokes": FormatProblem.EMPTY_DESCRIPTION,
    "<think> hm </think>": FormatProblem.EMPTY_DESCRIPTION,
    "<think> hm": FormatProblem.THINK_NOT_CLOSED,
    "<answer> likes jokes": FormatProblem.ANSWER_NOT_CLOSED,
    "<answer> a <answer> b </answer>": FormatProblem.REPEATED_TAG,
    "a </answer> b <answer>": FormatProblem.TAGS_OUT_OF_ORDER,
    f"<answer> {DESCRIPTION_PLACEHOLDER} </answer>": FormatProblem.PLACEHOLDER_ECHOED,
}


@pytest.mark.parametrize("completion", ALONE)
def test_a_description_that_was_asked_for_alone(completion):
    assert parse_description(completion) == ALONE[completion]


@given(clean_texts, clean_descriptions)
def test_what_is_well_formed_reads_the_same_with_and_without_reasoning(reasoning, description):
    inference = Inference(reasoning, description)
    assert parse_description(format_completion(inference)) == inference
    assert parse_description(description) == Inference("", description)


@given(st.text() | completions_with_tags)
def test_a_description_alone_never_contains_a_tag(completion):
    parsed = parse_description(completion)
    if isinstance(parsed, Inference):
        assert re.search(r"\w", parsed.description)
        assert not ANY_TAG.search(parsed.description)
        assert not ANY_TAG.search(parsed.reasoning)
    else:
        assert isinstance(parsed, FormatProblem)

"""Answers as judges write them: read where they name a response, left unread where they don't."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.judging.selections import read_selection

READABLE = [
    '{"selection": "Response A"}',
    '{"selection":"Response A"}',
    '  {\n  "selection": "Response A"\n}\n',
    '```json\n{"selection": "Response A"}\n```',
    "```\n{'selection': 'Response A'}\n```",
    "{'selection': 'Response A'}",
    "{“selection”: “Response A”}",
    "{‘selection’: ‘Response A’}",
    '{"selection": "Response A",}',
    '{"selection": "Response A", "confidence": 0.9, "tie": False, "why": None}',
    '{"reasoning": "likes {short} replies", "selection": "Response A"}',
    '{"reasoning": "the user\'s taste", "selection": "Response A"}',
    "{'reasoning': 'the user's taste, it's clear', 'selection': 'Response A'}",
    '{"reasoning": "calls B "too long", and A right", "selection": "Response A"}',
    '{"reasoning": "not {\\"selection\\": \\"Response B\\"} then", "selection": "Response A"}',
    '{"reasoning": "not {\'selection\': \'Response B\'} then", "selection": "Response A"}',
    '{"selection": "Response A", "reasoning": "not {\'selection\': \'Response B\'}"}',
    '{"answer": {"selection": "Response A"}}',
    '{"votes": [{"selection": "Response A"}, {"selection": "A"}]}',
    '{"selection": "Response A."}',
    '{"selection": "response a"}',
    '{"Selection": "RESPONSE A"}',
    '{"selection": "A"}',
    '{"selection": "a"}',
    '{"selection": "(A)"}',
    '{"selection": "Response_A"}',
    '{"selection": "the response A"}',
    "{selection: A}",
    "{selection: Response A}",
    '{"selection": Response A}',
    '**{"selection": "Response A"}**',
    '{"**selection**": "**Response A**"}',
    '{"selection": "`Response A`"}',
    '$\\boxed{{"selection": "Response A"}}$',
    '{"selection": "Response A"} because it is brief. Response B is not.',
    'It likes brief replies. {"selection": "Response A"}',
    'At first {"selection": "Response B"} looked right. But no: {"selection": "Response A"}',
    'Between {"selection": "Response A"} and {"selection": "Response B"} I choose the brief one:\n'
    '{"selection": "Response A"}',
    '{"selection": "Response A"}\n{"selection": "Response A"}',
    'The set {brief, warm decides. {"selection": "Response A"}',
    'Tags {x}: it answers "as {"selection": "Response A"} says".',
    '<think>Maybe {"selection": "Response B"}?</think>{"selection": "Response A"}',
    'Maybe {"selection": "Response B"}?\n</think>\n\n{"selection": "Response A"}',
    '<think>hm</think><think>B</think> {"selection": "Response A"}',
]
UNREADABLE = [
    "",
    "A",
    "Response A",
    "I would select Response A.",
    '"selection": "Response A"',
    '{"selection": "Response A',
    '{"selection": "Response A"',
    '{"selection": ""}',
    '{"selection": null}',
    '{"selection": "both"}',
    '{"selection": "Response C"}',
    '{"selection": "Response A or B"}',
    '{"selection": "[Response A / Response B]"}',
    '{"selection": "Response A is not good"}',
    '{"selection": "Response Alpha"}',
    '{"selection": ["Response A", "Response B"]}',
    '{"selection": {"first": "A"}}',
    '{"choice": "Response A"}',
    '{"previous selection": "Response A"}',
    '{"reasoning": "my selection: Response A"}',
    "{\"reasoning\": \"{'selection': 'Response A'}\"}",
    '{"selection": "Response A", "selection": "Response B"}',
    '{"selection": "Response A"} {"selection": "Response B"}',
    '{"selection": "Response A"} or {"selection": "Response B"}.',
    '```json\n{"selection": "Response B"}\n```\n```json\n{"selection": "Response A"}\n```',
    'First {"selection": "Response A"}, in the end {"selection": "neither"}',
    '<think>{"selection": "Response A"}',
    '{"selection": "Response A"}<think> or is it',
    '<thinking>{"selection": "Response A"}</thinking>',
]


@pytest.mark.parametrize("answer", READABLE)
def test_the_letter_is_read(answer: str) -> None:
    assert read_selection(answer) == "A"


@pytest.mark.parametrize("answer", UNREADABLE)
def test_what_names_no_response_is_not_read(answer: str) -> None:
    assert read_selection(answer) is None


@pytest.mark.parametrize("answer", READABLE)
def test_both_letters_are_read_alike(answer: str) -> None:
    swapped = answer.translate(str.maketrans("AB", "BA"))
    if '"a"' in answer or "response a" in answer:
        swapped = swapped.replace('"a"', '"b"').replace("response a", "response b")
    assert read_selection(swapped) == "B"


PIECES = [
    "{", "}", "[", "]", ":", ",", '"', "'", "“", "”", "\\", "\n", " ", "```", "```json", "**", "or",
    "selection", '"selection"', "'selection'", "Response A", "Response B", "A", "b", "it's", "the",
    "<think>", "</think>", '{"selection": "Response A"}', "{'selection': 'B'}", "null", "{}", "é",
]  # fmt: skip
answers = st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60)


@given(answers)
def test_never_raises_and_reads_nothing_without_a_selection_in_an_object(answer: str) -> None:
    letter = read_selection(answer)
    assert letter in ("A", "B", None)
    if letter is not None:
        named = rf"\{{.*selection\W*:\W*(?:the\s+)?(?:response|reply|option)?[\W_]*{letter}.*\}}"
        assert re.search(named, answer, re.IGNORECASE | re.DOTALL)


@given(answers.map(lambda text: text.replace("selection", "choice").replace("Selection", "choice")))
def test_no_selection_no_letter(answer: str) -> None:
    assert read_selection(answer) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=15),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["why", "scores", "x y"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    before=st.dictionaries(st.sampled_from(["reasoning", "why"]), json_values, max_size=2),
    after=st.dictionaries(st.sampled_from(["confidence", "notes"]), json_values, max_size=2),
    letter=st.sampled_from("AB"),
    indent=st.none() | st.just(2),
)
def test_any_json_object_gives_its_own_selection(
    before: dict[str, object], after: dict[str, object], letter: str, indent: int | None
) -> None:
    answer = json.dumps({**before, "selection": f"Response {letter}", **after}, indent=indent)
    assert read_selection(answer) == letter


@pytest.mark.parametrize("piece", ["{", '"', "{'", '{"a":', "[", "}", '{"selection":'])
def test_an_endless_repetition_is_read_in_time(piece: str) -> None:
    started = time.perf_counter()
    assert read_selection(piece * 4000) is None
    assert time.perf_counter() - started < 10

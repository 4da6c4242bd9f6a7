"""Names of dimensions as teachers write them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.synthesis.dimensions import merge_dimensions, read_dimensions

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
    .filter(lambda text: "</think>" not in text.lower()),
    unique=True,
)
FRAGMENTS = st.sampled_from(
    ["[", "]", '"', "\\", "\\ud800", "</think>", "- ", "1. ", "\n", ",", "null", "9" * 5000, "a b"]
)


@given(NAMES, st.booleans())
def test_a_list_in_json_is_read_as_it_was_written(names: list[str], ascii_only: bool) -> None:
    assert read_dimensions(json.dumps(names, ensure_ascii=ascii_only)) == tuple(names)


@given(st.text() | st.lists(FRAGMENTS | st.text(max_size=3)).map("".join))
def test_whatever_is_written_is_read_or_not_and_can_be_put_into_a_prompt(answer: str) -> None:
    for name in read_dimensions(answer) or ():
        assert 0 < len(name) <= 80
        assert name == " ".join(name.split())
        name.encode()


@given(NAMES, NAMES, st.sampled_from(["", "hm </think>", "<think> [1] - a </think> So: "]))
def test_reasoning_is_passed_over_and_the_last_list_counts(
    first: list[str], last: list[str], before: str
) -> None:
    answer = f"{json.dumps(first)} {before} {json.dumps(last)} I hope that helps."
    assert read_dimensions(answer) == tuple(last)


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ('```json\n["tone", "tone", "level  of\\ndetail"]\n```', ("tone", "level of detail")),
        ("- tone\n- **detail**\n", ("tone", "detail")),
        ('So:\n1. "tone"\n2) `detail`.\n', ("tone", "detail")),
        ("* tone\n• detail", ("tone", "detail")),
        ("- a\n</think>\n- b", ("b",)),
        ("[a link] and - no item", None),
        ('["a", ["b"], 3]', ("b",)),
        ('["tone [formal]", "what is \\"good\\""]', ("tone [formal]", 'what is "good"')),
        ('["a", 3]', None),
        ('["' + "a" * 81 + '"]', None),
        ('["\\ud800"]', None),
        ('["a", ""]', None),
        ("[]", ()),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_lists_as_models_write_them(answer: str, names: tuple[str, ...] | None) -> None:
    assert read_dimensions(answer) == names


@given(st.lists(st.lists(st.sampled_from("abcdefABCDEF"), unique_by=str.lower)), st.integers(1, 8))
def test_names_that_more_signals_gave_come_first(of_signals: list[list[str]], most: int) -> None:
    merged = merge_dimensions(of_signals, most)
    counts = Counter(name.lower() for names in of_signals for name in names)
    assert len({name.lower() for name in merged}) == len(merged) == min(most, len(counts))
    found = [counts[name.lower()] for name in merged]
    assert found == sorted(counts.values(), reverse=True)[:most]


def test_names_are_spelled_as_they_were_first_and_older_ones_win_a_tie() -> None:
    assert merge_dimensions([["Tone", "depth"], ["tone", "Humour"]], 3) == (
        "Tone",
        "depth",
        "Humour",
    )
    assert merge_dimensions([], 3) == ()

"""Names of dimensions are read from what teachers write, or not at all."""

from __future__ import annotations

import pytest

from alignxplore_trl.synthesis.dimensions import merge_dimensions, read_dimensions


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ('["warmth", "level of detail"]', ("warmth", "level of detail")),
        ('hm ["x"] </think> Sure: ["a [b]",  "c\\u00e9",\n"a [b]"] done', ("a [b]", "cé")),
        ('```json\n["a"]\n```', ("a",)),
        ("- **warmth**\n* humour.\n2) length", ("warmth", "humour", "length")),
        ('["a", 3]', None),
        ('["' + "x" * 81 + '"]', None),
        ('["half \\ud83d"]', None),
        ("none that I see", None),
        ('["never closed', None),
        ("", None),
    ],
)
def test_reading(answer: str, names: tuple[str, ...] | None) -> None:
    assert read_dimensions(answer) == names


def test_merging_counts_signals_and_ignores_capitals() -> None:
    assert merge_dimensions([("Warmth", "order"), ("tone",), ("warmth",)]) == (
        "Warmth", "order", "tone",
    )  # fmt: skip
    assert len(merge_dimensions([tuple("abcdefghijkl")])) == 8


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "filler", ["[", '["', '["a",', "\n", " ", "- ", "1", '"', "\\", "</think>", "[a", "* a \n"]
)
def test_degenerate_answers_are_read_in_linear_time(filler: str) -> None:
    """A quadratic reader takes an hour for this."""
    for start in ("", "[", '["', "- "):
        read_dimensions(start + filler * (200_000 // len(filler)))

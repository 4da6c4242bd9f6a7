"""What changed between two descriptions is what one text has and the other has not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.demo.differences import Piece, differences

# Few letters and signs, so that texts have words in common; and anything at all.
TEXTS = st.text(alphabet="ab ,.\n<>", max_size=40) | st.text(max_size=40)


def without_spaces(*texts: str) -> str:
    return "".join("".join(texts).split())


def texts_of(pieces: list[Piece], *changes: str) -> list[str]:
    return [piece.text for piece in pieces if piece.change in changes]


@given(TEXTS, TEXTS)
def test_both_texts_can_be_read_off_the_pieces(before: str, after: str) -> None:
    pieces = differences(before, after)
    assert "".join(texts_of(pieces, "kept", "added")) == after.strip()
    assert without_spaces(*texts_of(pieces, "kept", "removed")) == without_spaces(before)
    assert all(piece.text for piece in pieces)


@given(TEXTS)
def test_nothing_changes_between_equal_texts(text: str) -> None:
    assert texts_of(differences(text, text), "added", "removed") == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("", "likes jokes", [("likes jokes", "added")]),
        ("likes jokes", "", [("likes jokes", "removed")]),
        (
            "prefers brief, warm",
            "prefers brief, blunt",
            [("prefers brief, ", "kept"), ("warm", "removed"), ("blunt", "added")],
        ),
        ("prefers brief", "prefers brief, warm", [("prefers brief", "kept"), (", warm", "added")]),
    ],
)
def test_a_change_is_marked_at_its_words(
    before: str, after: str, expected: list[tuple[str, str]]
) -> None:
    assert [(piece.text, piece.change) for piece in differences(before, after)] == expected

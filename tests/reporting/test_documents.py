"""Figures go between their markers, and nothing else of a document changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignxplore_trl.reporting.documents import fill_in
from alignxplore_trl.run.errors import UserError

PAGE = "# A\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\n<!-- b: begin -->\nb\n<!-- b: end -->\n"


def test_a_text_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill_in(page, "a", "| new |")
    assert page.read_text() == PAGE.replace("old", "| new |")
    fill_in(page, "a", "old")
    assert page.read_text() == PAGE


@pytest.mark.parametrize(
    "text", ["no place", "<!-- a: end -->\n<!-- a: begin -->", PAGE.replace("b:", "a:")]
)
def test_a_document_without_one_place_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match="expected <!-- a: begin --> and behind it <!-- a: end -->"):
        fill_in(page, "a", "new")
    assert page.read_text() == text

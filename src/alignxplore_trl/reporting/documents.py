"""Documents that hold what recipes measured, between markers."""

from __future__ import annotations

from pathlib import Path

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_text_atomic


def fill_in(document: Path, name: str, text: str) -> None:
    """Put a text where a document has room for it, in place of what is there.

    Raises:
        UserError: see `check_markers`.
    """
    check_markers(document, name)
    begin, end = _markers(name)
    before, rest = document.read_text().split(begin)
    write_text_atomic(document, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def check_markers(document: Path, name: str) -> None:
    """See that a document has a place of this name.

    Raises:
        UserError: `<!-- name: begin -->` and `<!-- name: end -->` aren't there once each, in order.
    """
    begin, end = _markers(name)
    found = document.read_text() if document.is_file() else ""
    if not found.count(begin) == found.count(end) == 1 or found.index(end) < found.index(begin):
        raise UserError(
            f"{document}: expected {begin} and behind it {end}, once each; write them where the "
            "figures should stand"
        )


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"

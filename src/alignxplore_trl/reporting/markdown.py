"""Markdown of cards, in which texts from outside are escaped or fenced, and stay texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral

from alignxplore_trl.reporting.tables import ABSENT

# What begins something in Markdown; an underscore does where it isn't inside a word.
_MARKS = re.compile(r"[\\`*\[\]|<>~$&]|(?<![^\W_])_|_(?![^\W_])")


def fenced(text: str, language: str = "text") -> list[str]:
    """A code block that no text can end: its fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]


def number(value: float | int | str) -> str:
    """A count as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return ABSENT
    return f"{value:,.2f}" if abs(value) >= 1 or not value else f"{value:.3g}"


def cell(value: object) -> str:
    """A text on one line that nothing reads as Markdown or HTML."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """A Markdown table whose first columns hold words, and the others figures; none without rows.

    Args:
        headers: the names of the columns.
        rows: their cells, already escaped.
        words: how many columns hold words.
    """
    if not rows:
        return []
    ends = ["---"] * words + ["---:"] * (len(headers) - words)
    return [
        f"| {' | '.join(headers)} |",
        f"|{'|'.join(ends)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]

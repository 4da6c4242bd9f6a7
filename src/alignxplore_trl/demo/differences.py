"""What an update changed in a description, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

# A word or a sign, and the white space behind it.
_WORD = re.compile(r"(?:\w+|[^\w\s])\s*")


@dataclass(frozen=True)
class Piece:
    """Words in a row that stayed, came, or went."""

    text: str
    change: Literal["kept", "added", "removed"]


def differences(before: str, after: str) -> list[Piece]:
    """The later text with what was taken out of the earlier one, in reading order.

    What is kept or added makes up the later text, what is kept or removed the earlier one; white
    space is the later text's where words are kept.
    """
    old, new = _words(before), _words(after)
    # The heuristic for frequent words would leave those of long descriptions unmatched.
    matcher = SequenceMatcher(
        None, [word.rstrip() for word in old], [word.rstrip() for word in new], autojunk=False
    )
    pieces = []
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        removed, written = "".join(old[old_start:old_end]), "".join(new[new_start:new_end])
        if operation == "equal":
            pieces.append(Piece(written, "kept"))
            continue
        if removed:
            pieces.append(Piece(removed, "removed"))
        if written:
            pieces.append(Piece(written, "added"))
    return pieces


def _words(text: str) -> list[str]:
    return _WORD.findall(text.strip())

"""Names of what may matter to a user, which guide the teacher and nobody else."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

# Repetitions give nothing back to be tried again, so that these are linear on any text.
_LIST = re.compile(r'\[(?:[^\[\]"]|"(?:[^"\\\n]|\\.)*+")*+\]')  # A bracket in a name ends no list.
_ITEM = re.compile(r"^[^\S\n]*+(?:[-*•]|\d++[.)])[^\S\n]++(\S.*)$", re.MULTILINE)
_LONGEST_NAME = 80
_MOST_NAMES = 8


def read_dimensions(answer: str) -> tuple[str, ...] | None:
    """The names in a teacher's answer: a JSON list of texts, or the items of a list in Markdown.

    Reasoning before the last `</think>` is passed over, and of several lists the last one counts.

    Returns:
        The names, each once; `None` where there is no such list, or a name isn't a short text.
    """
    answer = answer.rpartition("</think>")[2]
    for text in reversed(_LIST.findall(answer)):
        try:
            return _checked(json.loads(text))
        except ValueError:
            continue
    items = [item.strip("*_`\"' .;\r") for item in _ITEM.findall(answer)]
    return _checked(items) if items else None


def merge_dimensions(of_signals: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The names that most signals of a user gave, at most eight; capitals make no difference."""
    spelled: dict[str, str] = {}
    for name in (name for names in of_signals for name in names):
        spelled.setdefault(name.lower(), name)
    counts = Counter(name.lower() for names in of_signals for name in names)
    return tuple(spelled[name] for name, _ in counts.most_common(_MOST_NAMES))


def _checked(names: Sequence[object]) -> tuple[str, ...] | None:
    texts = [" ".join(name.split()) for name in names if isinstance(name, str)]
    short = all(0 < len(text) <= _LONGEST_NAME and text.isprintable() for text in texts)
    return tuple(dict.fromkeys(texts)) if short and len(texts) == len(names) else None

"""Names of what may matter to a user, which guide the teacher and nobody else."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
# A bracket within a name ends no list.
_LIST = re.compile(r'\[(?:[^\[\]"]|"(?:[^"\\\n]|\\.)*")*\]')
# JSON may escape half a character, which no tokenizer takes.
_HALF = re.compile(r"[\ud800-\udfff]")
# `- name`, `* name`, `1. name`, `2) name`.
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+?)\s*$", re.MULTILINE)
_LONGEST_NAME = 80


def read_dimensions(answer: str) -> tuple[str, ...] | None:
    """The names in a teacher's answer: a JSON list of texts, or the items of a list in Markdown.

    Reasoning before `</think>` is passed over, and of several lists the last one counts. Never
    raises.

    Returns:
        The names, each once; `None` where there is no such list, or a name isn't a short text.
    """
    answer = _THOUGHT.sub("", answer)
    for text in reversed(_LIST.findall(answer)):
        try:
            names = json.loads(text)
        except ValueError:
            continue
        return _checked(names)
    items = _ITEM.findall(answer)
    return _checked([item.strip("*_`\"' .;") for item in items]) if items else None


def merge_dimensions(of_signals: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    """The names that several signals of a user gave, those that more of them gave first.

    Names that differ in nothing but capitals are one.

    Args:
        of_signals: the names of each signal, oldest signal first.
        most: how many are kept.
    """
    counts = Counter(name.lower() for names in of_signals for name in names)
    spelled: dict[str, str] = {}
    for names in of_signals:
        for name in names:
            spelled.setdefault(name.lower(), name)
    return tuple(spelled[name] for name, _ in counts.most_common(most))


def _checked(names: Sequence[object]) -> tuple[str, ...] | None:
    texts = [" ".join(name.split()) for name in names if isinstance(name, str)]
    if len(texts) < len(names) or not all(map(_is_name, texts)):
        return None
    return tuple(dict.fromkeys(texts))


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and _HALF.search(text) is None

"""The reader of a judge's written answer: which response does its JSON selection name?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Letter = Literal["A", "B"]

_CURLY_QUOTES = str.maketrans("“”„‟«»‘’‚‛", '""""""\'\'\'\'')
_THINK = re.compile(r"<\s*(/?)\s*think(?:ing)?\s*>", re.IGNORECASE)
# A string ends at a quote that something structural follows, and starts at no letter's apostrophe:
# models leave quotes inside their strings as they are.
_TOKEN = re.compile(
    r"""(?<!\w)(?P<quote>["'])(?P<string>(?:\\.|[^\\])*?)(?P=quote)(?=\s*[,:}\]])
      | (?P<mark>[{}\[\],:])
      | (?P<word>[^\s{}\[\],:"']+)""",
    re.VERBOSE | re.DOTALL,
)
_MARKUP = "*_`\\\"' \n\t"
_NAMED = re.compile(
    r"(?:the\s+)?(?:(?:response|reply|option)[\s_\-]*)?\(?(?P<letter>[ab])\)?\.?", re.IGNORECASE
)
# What may stand between two objects of one answer: signs, and a word that only joins them.
_JOINING = re.compile(r"[^\w]*(?:(?:or|and|json)\b[^\w]*)*", re.IGNORECASE)


@dataclass(frozen=True)
class _Selection:
    """An outermost object with a selection: where it stands, and what it selects."""

    start: int
    end: int
    letters: frozenset[Letter | None]


def read_selection(answer: str) -> Letter | None:
    """The letter that an answer like `{"selection": "Response A"}` names, `None` if there is none.

    Only the value of a key `selection` of a complete object counts, wherever the object stands:
    alone, in a code fence, in bold, after reasoning. JSON, Python's dicts and what lies between
    are read: single or curly quotes or none, trailing commas, other keys, the letter alone.

    - A `<think>` block is no part of the answer; one that isn't closed leaves no answer.
    - Of several objects the last one counts: those before it are reasoning. Objects with nothing
      but signs or a joining word between them are one answer, and must agree.
    - A value that names neither response, or both, is no answer, whatever stood before it.

    Never raises.
    """
    text = _after_thinking(answer.translate(_CURLY_QUOTES))
    letters: frozenset[Letter | None] = frozenset()
    following: _Selection | None = None
    for selection in reversed(_selections(text)):
        between = "" if following is None else text[selection.end : following.start]
        if not _JOINING.fullmatch(between):
            break
        letters |= selection.letters
        following = selection
    return next(iter(letters)) if len(letters) == 1 else None


def _after_thinking(text: str) -> str:
    tags = list(_THINK.finditer(text))
    if not tags:
        return text
    return text[tags[-1].end() :] if tags[-1][1] else ""


class _OpenBracket:
    """A bracket that is being read, with the member of it that is not finished yet."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.key: str | None = None
        self.words: list[str] = []
        self.letters: set[Letter | None] = set()

    def end_key(self) -> None:
        if self.key is None:
            self.key, self.words = " ".join(self.words).strip(_MARKUP).lower(), []

    def end_member(self) -> None:
        if self.key == "selection":
            named = _NAMED.fullmatch(" ".join(self.words).strip(_MARKUP))
            self.letters.add(None if named is None else _letter(named["letter"]))
        self.key, self.words = None, []


def _selections(text: str) -> list[_Selection]:
    """The outermost complete objects with a selection, in order; one pass, whatever is unbalanced.

    A selection in an object or a list inside an object is one of the outer object's.
    """
    found: list[_Selection] = []
    open_brackets: list[_OpenBracket] = []
    for token in _tokens(text, open_brackets):
        mark, inner = token["mark"], open_brackets[-1] if open_brackets else None
        if mark in ("{", "[") or inner is None:
            open_brackets.append(_OpenBracket(token.start()))
        elif mark is None:
            inner.words.append(token["word"] or token["string"])
        elif mark == ":":
            inner.end_key()
        else:
            inner.end_member()
            if mark != ",":
                open_brackets.pop()
                while found and found[-1].start > inner.start:
                    inner.letters |= found.pop().letters
                if inner.letters:
                    letters = frozenset(inner.letters)
                    found.append(_Selection(inner.start, token.end(), letters))
    return found


def _tokens(text: str, open_brackets: Sequence[_OpenBracket]) -> Iterator[re.Match[str]]:
    """Tokens within objects; what stands outside of them is skipped, quotes included."""
    position = 0
    while (start := position if open_brackets else text.find("{", position)) >= 0:
        token = _TOKEN.search(text, start)
        if token is None:
            return
        yield token
        position = token.end()


def _letter(text: str) -> Letter:
    return "A" if text in "aA" else "B"

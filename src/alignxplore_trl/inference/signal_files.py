"""Files of what users did: one signal a row, for descriptions in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignxplore_trl.data.rows import (
    SEPARATORS,
    is_text,
    raise_the_first,
    read_rows,
    shown,
    texts_of,
)
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Signal, signal_from_dict

# The texts that each kind of signal has.
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "comparison": ("post", "chosen", "rejected"),
    "post": ("post", "comment"),
    "attributes": ("text",),
}
_FORMS = ("replies", "items")
_ABOUT_ROWS = ("user", "id", "kind")


@dataclass(frozen=True)
class UserSignal:
    """A row: a signal, and whose it is.

    Attributes:
        signal: what the user did.
        user: whose it is; `None` where the row doesn't say.
        id: the signal's own, from where it comes from; `None` without one.
        place: where the row stands, in words.
    """

    signal: Signal
    user: str | None = None
    id: str | None = None
    place: str = field(default="", compare=False)


def read_user_signals(path: Path) -> list[UserSignal]:
    """The signals of a file: JSON lines, a JSON array, Parquet, CSV or TSV.

    A row has the texts of its kind: `post`, `chosen` and `rejected`; `post` and `comment`; or
    `text`. It may name its `kind` (comparison, post, attributes), its `user` and an `id`, and a
    comparison its `form`.

    Raises:
        UserError: there is no such file, or rows that can't be read: the first of them, each with
            place, field, what was found and what was expected.
    """
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected one with a signal in each row")
    problems = Problems()
    separated = path.suffix in SEPARATORS
    rows = [
        signal_of(_cells(row.value) if separated else row.value, row.place, problems)
        for row in read_rows(path, problems)
    ]
    raise_the_first(problems, path)
    return [row for row in rows if row is not None]


def _cells(row: Mapping[str, str]) -> dict[str, str | None]:
    """The row of a table of texts, in which an empty cell is how nothing is written."""
    return {name: text or None for name, text in row.items()}


def signal_of(value: Any, place: str, problems: Problems) -> UserSignal | None:
    """One row as a signal; `None`, and a problem for each mistake, where it is none.

    Args:
        value: of the row's JSON.
        place: where it stands, in words.
        problems: gets the mistakes.
    """
    if not isinstance(value, Mapping):
        problems.add(f"{place}: {shown(value)} found, expected an object with a signal's texts")
        return None
    # Tables have all columns in all rows.
    row = {name: each for name, each in value.items() if each is not None}
    kind = _kind_of(row)
    if kind is None or kind not in _TEXTS:
        expected = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in _TEXTS.items())
        found = (
            shown(row["kind"]) if "kind" in row else f"fields {', '.join(sorted(row)) or 'none'}"
        )
        problems.add(f"{place}, kind: {found} found, expected the texts of one of {expected}")
        return None
    before = len(problems.found)
    allowed = {*_TEXTS[kind], *_ABOUT_ROWS, *(["form"] if kind == "comparison" else [])}
    for name in sorted(row.keys() - allowed):
        problems.add(
            f"{place}, {name}: found, but signals of the kind {kind} have no such field, expected "
            f"{', '.join(_TEXTS[kind])}"
        )
    if row.get("form", _FORMS[0]) not in _FORMS:
        problems.add(f"{place}, form: {shown(row['form'])} found, expected {' or '.join(_FORMS)}")
    for name in ("user", "id"):
        if name in row and not is_text(row[name]):
            problems.add(f"{place}, {name}: {shown(row[name])} found, expected a text")
    texts = texts_of(row, _TEXTS[kind], place, problems)
    if len(problems.found) > before:
        return None
    form = {"form": row["form"]} if "form" in row else {}
    named = dict(zip(_TEXTS[kind], texts, strict=True))
    signal = signal_from_dict({"kind": kind, **named, **form})
    return UserSignal(signal, row.get("user"), row.get("id"), place)


def _kind_of(row: Mapping[str, Any]) -> str | None:
    """What the row says it is, or else what its fields are of."""
    if "kind" in row:
        return str(row["kind"])
    signs = {"comparison": ("chosen", "rejected"), "post": ("comment",), "attributes": ("text",)}
    return next((kind for kind, own in signs.items() if any(name in row for name in own)), None)

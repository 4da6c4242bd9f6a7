"""Files of what users did: one signal a row, for descriptions in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignxplore_trl.cases import Attributes, Comparison, Post, Signal
from alignxplore_trl.data.rows import Problems, read_rows
from alignxplore_trl.run.errors import UserError

_KINDS = {"comparison": Comparison, "post": Post, "attributes": Attributes}
# The field that tells the kind of a row that doesn't name it.
_SIGNS = {"chosen": "comparison", "rejected": "comparison", "comment": "post", "text": "attributes"}
_COLUMNS = {"user", "id", "kind", "post", *_SIGNS}
Signals = list[tuple[str | None, Signal]]


def read_signals(path: Path, user: str | None) -> dict[str, Signals]:
    """Read JSON lines, a JSON array, CSV, TSV or Parquet: each user's signals in order, with ids.

    A row has the texts of its kind: `post`, `chosen` and `rejected`; `post` and `comment`; or
    `text`. It may name its `kind` (comparison, post, attributes), its `user` and an `id`.

    Args:
        path: the file.
        user: whose rows are that don't say so.

    Raises:
        UserError: there is no such file, or rows that can't be read, each with its place and field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected one with a signal in each row")
    signals, problems = dict[str, Signals](), Problems()
    for row in read_rows(path, _COLUMNS, problems):
        try:
            owner, name, signal = _signal(row.value, user)
            signals.setdefault(owner, []).append((name, signal))
        except ValueError as error:
            problems.add(f"{row.place}, {error}")
    if not signals and not problems.count:
        problems.add(f"{path}: no rows found, expected at least one")
    problems.raise_if_any()
    return signals


def _signal(row: Any, user: str | None) -> tuple[str, str | None, Signal]:
    """A row's user, id and signal.

    Raises:
        ValueError: the row is none; the message begins with the field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"row: {ascii(row)[:60]} found, expected an object with a signal's texts")
    # In tables an empty cell is how nothing is written.
    row = {"user": user} | {name: value for name, value in row.items() if value not in (None, "")}
    kind = row.pop("kind", None) or next((_SIGNS[name] for name in row if name in _SIGNS), None)
    if kind not in _KINDS:
        expected = "; ".join(f"{k} ({', '.join(v.__struct_fields__)})" for k, v in _KINDS.items())
        raise ValueError(f"kind: {kind or 'nothing'} found, expected the texts of {expected}")
    fields = _KINDS[kind].__struct_fields__
    for name in dict.fromkeys(["user", *fields, *row]):
        if name not in {"user", "id", *fields}:
            raise ValueError(f"{name}: no field of a {kind}, expected {', '.join(fields)}")
        if not isinstance(value := row.get(name), str) or not value.strip():
            remedy = "; name the user with --user" if name == "user" else ""
            raise ValueError(f"{name}: {ascii(value)[:60]} found, expected a text{remedy}")
    return row.pop("user"), row.pop("id", None), _KINDS[kind](**row)

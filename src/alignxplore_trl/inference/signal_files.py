"""Files of what users did: one signal a row, for descriptions in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignxplore_trl.cases import Signal
from alignxplore_trl.data.rows import Problems, Row, convert, read_rows
from alignxplore_trl.run.errors import UserError

_SIGNAL: Any = Signal
# The field that tells the kind of a row that doesn't name it.
_KINDS = {"chosen": "comparison", "rejected": "comparison", "comment": "post", "text": "attributes"}


def read_signals(path: Path, user: str | None) -> dict[str, list[tuple[str, Signal]]]:
    """Read JSON lines, a JSON array, CSV, TSV or Parquet: each user's signals in order, with ids.

    A row has the texts of its kind: `post`, `chosen` and `rejected`; `post` and `comment`; or
    `text`. It may name its `kind` (comparison, post, attributes), an `id`, and a `user` other than
    the given one. Rows that can't be read are one UserError, each with its place and field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected one with a signal in each row")
    signals, problems = dict[str, list[tuple[str, Signal]]](), Problems()
    for row in read_rows(path, {"user", "id", "kind", "post", *_KINDS}, problems):
        # In tables an empty cell is how nothing is written.
        found = row.value.items() if isinstance(row.value, dict) else ()
        values = {name: value for name, value in found if value not in (None, "")}
        owner = values.get("user", user)
        kind = next((_KINDS[name] for name in values if name in _KINDS), "comparison")
        given = Row(row.name, row.place, {"kind": kind, **values})
        if not isinstance(owner, str) or not owner.isprintable():
            problems.append(f"{row.place}, user: {owner!a} found, expected a name (--user gives one)")
        elif signal := convert(given, _SIGNAL, problems):
            signals.setdefault(owner, []).append((str(values.get("id", "")), signal))
    if not signals and not problems:
        problems.append(f"{path}: no rows found, expected at least one")
    problems.raise_if_any()
    return signals

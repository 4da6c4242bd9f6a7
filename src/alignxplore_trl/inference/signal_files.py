"""Files of what users did: one signal a row, for descriptions in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignxplore_trl.cases import Attributes, Comparison, Post, Signal
from alignxplore_trl.data.rows import Problems, Row, convert, read_rows
from alignxplore_trl.run.errors import UserError

_KINDS: dict[str, Any] = {"comparison": Comparison, "post": Post, "attributes": Attributes}
# The field that tells the kind of a row that doesn't name it.
_SIGNS = {"chosen": "comparison", "rejected": "comparison", "comment": "post", "text": "attributes"}


def read_signals(path: Path, user: str | None) -> dict[str, list[tuple[str, Signal]]]:
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
    signals, problems = dict[str, list[tuple[str, Signal]]](), Problems()
    for row in read_rows(path, {"user", "id", "kind", "post", *_SIGNS}, problems):
        # In tables an empty cell is how nothing is written.
        is_object = isinstance(row.value, dict)
        values = {k: v for k, v in row.value.items() if v not in (None, "")} if is_object else {}
        owner, kind = values.pop("user", user), values.pop("kind", None) or _kind_of(values)
        if not isinstance(owner, str) or not owner.isprintable():
            problems.append(
                f"{row.place}, user: {owner!a} found, expected a name (--user gives one)"
            )
        elif kind not in _KINDS:
            expected = "; ".join(
                f"{k}: {', '.join(v.__struct_fields__)}" for k, v in _KINDS.items()
            )
            problems.append(f"{row.place}, kind: {kind} found, expected the texts of {expected}")
        elif signal := convert(Row(row.name, row.place, values), _KINDS[kind], problems):
            signals.setdefault(owner, []).append((str(values.get("id", "")), signal))
    if not signals and not problems:
        problems.append(f"{path}: no rows found, expected at least one")
    problems.raise_if_any()
    return signals


def _kind_of(values: dict[str, Any]) -> str | None:
    return next((_SIGNS[name] for name in values if name in _SIGNS), None)

"""The rows of a file in one of the usual formats, each with the words for where it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from alignxplore_trl.data.row_files import RowFile, chunks_of, find_files, rows_of, unit_of
from alignxplore_trl.run.errors import Problems, UserError

MOST_PROBLEMS_SHOWN = 20
SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """One row: its value, its number counted from 1, and its place as a person finds it."""

    value: Any
    number: int
    place: str


def read_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a JSON array, JSON lines, Parquet, CSV or TSV file, in order, one at a time.

    CSV and TSV are told by the ending of the name; they have a header line, and all their values
    are texts. What else a file is, its content tells.

    Args:
        path: the file.
        problems: rows that can't be read are added to it, and passed over.

    Raises:
        UserError: there is no such file, its content is of another format, or it has no rows.
    """
    if path.suffix in SEPARATORS:
        if not path.is_file():
            raise UserError(f"data.path: found no file {path}")
        rows = _separated_rows(path)
    else:
        (file,) = find_files(str(path))
        rows = rows_of_file(file, problems)
    found = len(problems.found)
    any_row = False
    for row in rows:
        any_row = True
        yield row
    if not any_row and len(problems.found) == found:
        raise UserError(f"{path}: no rows found, expected at least one")


def rows_of_file(file: RowFile, problems: Problems) -> Iterator[Row]:
    """The rows of JSON or Parquet; those that can't be read are added to the problems.

    Raises:
        UserError: its rows can't be told apart, or it is one object over several lines.
    """
    unit, lines = unit_of(file), chain.from_iterable(map(rows_of, chunks_of(file)))
    any_row, unreadable = False, Problems()
    for number, (_, line) in enumerate(lines, 1):
        if line.isspace():
            continue
        place = f"{file.path}, {unit} {number}"
        try:
            value = value_of(line)
        except ValueError as error:
            unreadable.add(unreadable_row(place, error))
        else:
            any_row = True
            yield Row(value, number, place)
    if not any_row and unreadable.found and _is_json(file.path):
        raise UserError(
            f"{file.path}: one JSON object over several lines, expected a JSON array of rows, or "
            "JSON lines (each row on one line)"
        )
    problems.found.extend(unreadable.found)


def value_of(line: bytes) -> Any:
    """The value of a row's JSON.

    Raises:
        ValueError: it is not JSON, or not UTF-8; see `unreadable_row`.
    """
    try:
        return json.loads(line.decode().rstrip())
    except RecursionError as error:
        raise ValueError("found lists within lists without end") from error


def unreadable_row(place: str, error: ValueError) -> str:
    """What `value_of` a row stumbled over, in words."""
    match error:
        case json.JSONDecodeError():
            return f"{place}, column {error.colno}: not JSON: {error.msg}"
        case UnicodeDecodeError():
            byte = error.object[error.start]
            return f"{place}: byte {byte:#04x} is not valid UTF-8; save the file as UTF-8"
    return f"{place}: {error}"


def texts_of(
    row: Mapping[str, Any],
    fields: Sequence[str],
    place: str,
    problems: Problems,
    *,
    may_be_empty: bool = False,
) -> tuple[str, ...]:
    """The texts of some fields, or a problem for each that is none, and an empty tuple."""
    wrong = [
        f"{place}, {field}: {shown(row[field]) if field in row else 'nothing'} found, "
        "expected a text"
        for field in fields
        if not is_text(row.get(field), may_be_empty=may_be_empty)
    ]
    problems.found.extend(wrong)
    return () if wrong else tuple(row[field] for field in fields)


def is_text(value: object, *, may_be_empty: bool = False) -> bool:
    """Whether this is a text with something in it that can be written to a file."""
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # Half a surrogate pair.
        return False
    return True


def shown(value: object) -> str:
    """A value in a message: as JSON, cut where it gets long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode(
        errors="backslashreplace"
    ).decode()  # Half a surrogate pair can't be printed.
    return text if len(text) <= 60 else text[:57] + "…"


def post_key(post: str) -> str:
    """Two posts with the same key are the same: case and white space make no difference."""
    return " ".join(post.casefold().split())


def raise_the_first(problems: Problems, path: Path) -> None:
    """Report the problems, but not thousands of them.

    Raises:
        UserError: there are any.
    """
    keep_the_first(problems, path)
    problems.raise_if_any()


def keep_the_first(problems: Problems, source: str | Path) -> None:
    """Cut the list of problems, and say how many more there are."""
    hidden = len(problems.found) - MOST_PROBLEMS_SHOWN
    if hidden > 0:
        problems.found[MOST_PROBLEMS_SHOWN:] = [f"{source}: {hidden} more problems like these"]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def _separated_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=SEPARATORS[path.suffix], strict=True)
        names = list(reader.fieldnames or ())
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"{path}, line 1: the column {', '.join(repeated)} stands there twice; give each "
                "column a name of its own"
            )
        while (value := _next_row(reader, path)) is not None:
            # What stands beyond the header's columns is kept under `None`.
            number = reader.line_num
            if None in value or None in value.values():
                columns = len(reader.fieldnames or ())
                raise UserError(
                    f"{path}, line {number}: another number of columns than in the header, which "
                    f"has {columns}; quote texts that contain the separator"
                )
            yield Row(dict(value), number, f"{path}, line {number}")


def _next_row(reader: csv.DictReader[str], path: Path) -> dict[str | Any, Any] | None:
    try:
        return next(reader, None)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}; save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.reader.line_num}: {error}; look for a missing quotation mark, or save "
            "the rows as JSON lines or Parquet"
        ) from None

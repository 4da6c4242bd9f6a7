"""The rows of a file in one of the usual formats, each with the words for where it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.run.errors import Problems, UserError

FORMATS = (".json", ".jsonl", ".parquet", ".csv", ".tsv")
MOST_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One row: its value, its number counted from 1, and its place as a person finds it."""

    value: Any
    number: int
    place: str


def read_rows(path: Path, key: str = "data.path") -> Iterator[Row]:
    """The rows of a JSON array, JSON lines, Parquet, CSV or TSV file, in order, one at a time.

    The ending tells the format; `.json` may hold an array or lines. CSV and TSV have a header line,
    and all their values are texts.

    Args:
        path: the file.
        key: the configuration's key that names it, for the message.

    Raises:
        UserError: there is no such file, its ending or its content is of another format, or it has
            no rows.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{key}: {path} found, expected a file that ends in {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{key}: found no file {path}")
    try:
        if path.suffix == ".parquet":
            rows = _parquet_rows(path)
        elif path.suffix in (".csv", ".tsv"):
            rows = _separated_rows(path)
        else:
            rows = _json_rows(path)
        any_row = False
        for row in rows:
            any_row = True
            yield row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}; save the file as UTF-8") from None
    if not any_row:
        raise UserError(f"{path}: no rows found, expected at least one")


def texts_of(
    row: Mapping[str, Any], fields: Sequence[str], place: str, problems: Problems
) -> tuple[str, ...]:
    """The texts of some fields, or a problem for each that is none, and an empty tuple."""
    wrong = [
        f"{place}, {field}: {shown(row[field]) if field in row else 'nothing'} found, "
        "expected a text"
        for field in fields
        if not is_text(row.get(field))
    ]
    problems.found.extend(wrong)
    return () if wrong else tuple(row[field] for field in fields)


def is_text(value: object) -> bool:
    """Whether this is a text with something in it that can be written to a file."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # Half a surrogate pair.
        return False
    return True


def shown(value: object) -> str:
    """A value in a message: as JSON, cut where it gets long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def post_key(post: str) -> str:
    """Two posts with the same key are the same: case and white space make no difference."""
    return " ".join(post.casefold().split())


def raise_the_first(problems: Problems, path: Path) -> None:
    """Report the problems, but not thousands of them.

    Raises:
        UserError: there are any.
    """
    hidden = len(problems.found) - MOST_PROBLEMS_SHOWN
    if hidden > 0:
        problems.found[MOST_PROBLEMS_SHOWN:] = [f"{path}: {hidden} more problems like these"]
    problems.raise_if_any()


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        is_array = file.read(1000).lstrip().startswith("[")
        file.seek(0)
        yield from _array_rows(path, file.read()) if is_array else _line_rows(path, file)


def _array_rows(path: Path, text: str) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from None
    for number, value in enumerate(values, 1):
        yield Row(value, number, f"{path}, row {number}")


def _line_rows(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    problems = Problems()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}")
            continue
        yield Row(value, number, f"{path}, line {number}")
    raise_the_first(problems, path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=1000)
        number = 0
        for batch in batches:
            for value in batch.to_pylist():
                number += 1
                yield Row(value, number, f"{path}, row {number}")
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None


def _separated_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        for value in reader:
            # What stands beyond the header's columns is kept under `None`.
            number = reader.line_num
            if None in value or None in value.values():
                columns = len(reader.fieldnames or ())
                raise UserError(
                    f"{path}, line {number}: another number of columns than in the header, which "
                    f"has {columns}; quote texts that contain the separator"
                )
            yield Row(dict(value), number, f"{path}, line {number}")

"""The rows of a file, a folder or a data set on the Hub, each with the words for where it stands.

JSON is read here, one row after the other, because readers that infer a schema refuse rows that are
well-formed (a number here, a text there). What is on the Hub is loaded by `datasets`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

R = TypeVar("R")
_JSON = (".jsonl", ".ndjson", ".json")
# Of a folder, the files of the first of these kinds that it has.
_KINDS = ((".parquet",), _JSON, (".csv", ".tsv"))
# Characters of JSON that are read at once, and the longest row.
_CHUNK, _LONGEST = 2**22, 2**26
_BETWEEN = " \t\r\n,"
_MOST_SHOWN = 20


class Row(NamedTuple):
    """One row: a name that no other row of its source has, its place in words, its value."""

    name: str
    place: str
    value: Any


class Problems:
    """Mistakes in rows, reported together; of many, the first."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.count = 0

    def add(self, problem: str) -> None:
        """Note one mistake."""
        self.count += 1
        if self.count <= _MOST_SHOWN:
            self.shown.append(problem)

    def raise_if_any(self, advice: str = "") -> None:
        """Report what was found, and what may be done beside mending it.

        Raises:
            UserError: there is something.
        """
        more = self.count - len(self.shown)
        rest = [f"{more:,} more mistakes like these"] if more else []
        if self.count:
            raise UserError([*self.shown, *rest, *([advice] if advice else [])])


def read_rows(source: str | Path, columns: Collection[str], problems: Problems) -> Iterator[Row]:
    """The rows of a source in order, with no other columns than these.

    Args:
        source: a file (a JSON array, JSON lines, Parquet, CSV or TSV, whose values are all texts),
            a folder of such files, or `owner/name` on the Hub. Other JSON files of a folder are
            passed over, and it is said which.
        columns: that are wanted.
        problems: are given each row that can't be read, or has text that isn't Unicode.

    Raises:
        UserError: there is no such source, or its rows can't be told apart.
    """
    path = Path(source)
    found: Iterator[Row]
    if path.exists():
        files = [path] if path.is_file() else _files_of(path, columns)
        found = (row for file in files for row in _rows_of_file(file, path, columns, problems))
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in sum(_KINDS, ()):
        found = _rows_of_hub(str(source), columns)
    else:
        raise UserError(
            f"data.path: no file or folder {source}; expected rows as JSON, Parquet, CSV or TSV, "
            "or the name of a data set on the Hub (owner/name)"
        )
    for row in found:
        if isinstance(row.value, dict):
            wanted = {name: row.value[name] for name in columns if name in row.value}
            row = row._replace(value=wanted)
        if fault := _text_that_is_none(row.value):
            problems.add(f"{row.place}{fault}")
        else:
            yield row


def convert(row: Row, to: type[R], problems: Problems) -> R | None:
    """The row as a msgspec struct, or a problem that names row and field."""
    try:
        return msgspec.convert(row.value, to)
    except msgspec.ValidationError as error:
        problems.add(f"{row.place}: {error}")
        return None


def _files_of(folder: Path, columns: Collection[str]) -> list[Path]:
    for suffixes in _KINDS:
        inside = sorted(file for file in folder.rglob("*") if file.suffix in suffixes)
        files = [file for file in inside if suffixes is not _JSON or _has_rows(file, columns)]
        if files:
            return files
    raise UserError(
        f"data.path: the folder {folder} has no Parquet, JSON, CSV or TSV file with rows that have "
        f"{', '.join(sorted(columns))}"
    )


def _has_rows(file: Path, columns: Collection[str]) -> bool:
    """Whether a file's first row has one of the columns; one that can't be read is a mistake."""
    first: Any = next(_json_values(file), {})
    is_one = isinstance(first, ValueError) or (
        isinstance(first, dict) and bool(first.keys() & columns)
    )
    if not is_one:
        say(f"passed over: {file} (its first row has none of {', '.join(sorted(columns))})")
    return is_one


def _rows_of_file(
    file: Path, source: Path, columns: Collection[str], problems: Problems
) -> Iterator[Row]:
    if file.suffix == ".parquet":
        values = _parquet_values(file, columns)
    elif file.suffix in (".csv", ".tsv"):
        values = _separated_values(file)
    else:
        values = _json_values(file)
    name = file.stem if file == source else "-".join(file.relative_to(source).with_suffix("").parts)
    for number, value in enumerate(values, 1):
        place = f"{file}, row {number:,}"
        if isinstance(value, ValueError):
            problems.add(f"{place}: not JSON: {value}")
        else:
            yield Row(f"{name}-{number}", place, value)


def _json_values(file: Path) -> Iterator[Any]:
    """The values of a JSON array, or those that follow each other; an error for one that is none.

    Bytes that aren't UTF-8 come out as halves of surrogate pairs, and are found with these.
    """
    decode = json.JSONDecoder().raw_decode
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        text = stream.read(_CHUNK).lstrip()
        is_array = text.startswith("[")
        start = int(is_array)
        while True:
            while start < len(text) and text[start] in _BETWEEN:
                start += 1
            if is_array and text.startswith("]", start):
                return
            try:
                value, start = decode(text, start)
            except (ValueError, RecursionError) as error:
                if len(text) - start < _LONGEST and (more := stream.read(_CHUNK)):
                    text, start = text[start:] + more, 0
                    continue
                if start == len(text) and not is_array:
                    return
                yield ValueError(str(error))
                if is_array or (start := text.find("\n", start)) < 0:
                    return
            else:
                yield value


def _parquet_values(file: Path, columns: Collection[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            names = [name for name in parquet.schema_arrow.names if name in columns]
            if len(names) > len(set(names)):
                raise UserError(
                    f"{file}: two columns of one name among {', '.join(names)}; rename one"
                )
            for batch in parquet.iter_batches(batch_size=256, columns=names):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error


def _separated_values(file: Path) -> Iterator[Any]:
    delimiter = "," if file.suffix == ".csv" else "\t"
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            names = reader.fieldnames or []
            if len(names) > len(set(names)):
                raise UserError(f"{file}: two columns of one name in its header; rename one")
            for value in reader:
                # What stands beyond the header's columns is kept under `None`, and what is missing
                # is `None`.
                if None in value or None in value.values():
                    raise csv.Error(f"expected {len(names)} columns, as in the header")
                yield value
        except csv.Error as error:
            raise UserError(
                f"{file}, line {reader.line_num}: {error}; quote texts that contain the separator"
            ) from error


def _rows_of_hub(name: str, columns: Collection[str]) -> Iterator[Row]:
    # Imported here, since it takes two seconds. Only its streaming would import torch.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits = load_dataset(name)
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(
            f"data.path: no file or folder {name}, and as a data set it can't be had from the Hub: "
            f"{error}"
        ) from error
    for split, rows in splits.items():
        wanted = rows.select_columns([column for column in rows.column_names if column in columns])
        for number, value in enumerate(wanted, 1):
            yield Row(f"{split}-{number}", f"{name}, {split}, row {number:,}", value)


def _text_that_is_none(value: Any) -> str:
    """Where a value has text that can't be written as UTF-8, in words; empty if it has none."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        if isinstance(value, dict) and len(value) > 1:
            return next(
                f", {key}{fault}"
                for key, part in value.items()
                if (fault := _text_that_is_none({key: part}))
            )
        found = error.object[error.start]
        return (
            f": {found!a} found, which is half of a surrogate pair"
            if not "\udc80" <= found <= "\udcff"
            else f": byte 0x{ord(found) - 0xDC00:02x} found, which isn't UTF-8"
        ) + "; save the file as UTF-8, and mend the row"
    return ""

"""The rows of a file, a folder or a data set on the Hub, each with the words for where it stands.

JSON is read here, one row after the other: readers that infer a schema, as that of `datasets`,
refuse rows that are well-formed (a number here, a text there).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

R = TypeVar("R")
# What names a user or a group: a number, or a text that isn't blank.
Name = Annotated[str, msgspec.Meta(pattern=r"\S")] | int
_JSON = (".jsonl", ".ndjson", ".json")
# Of a folder, the files of the first of these kinds that it has.
_KINDS = ((".parquet",), _JSON, (".csv", ".tsv"))
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

    def raise_if_any(self, advice: str = "mend them") -> None:
        """Report what was found as a `UserError`, if there is anything."""
        if self.count:
            raise UserError([*self.shown, f"mistakes in rows: {self.count:,}; {advice}"])


def read_rows(source: str | Path, columns: Collection[str], problems: Problems) -> Iterator[Row]:
    """The rows of a source in order, with no other columns than these.

    A source is a file (a JSON array, JSON lines, Parquet, CSV or TSV, whose values are all texts),
    a folder of such files, or `owner/name` on the Hub. Other JSON files of a folder are passed
    over, and it is said which. A row that can't be read, or has text that isn't Unicode, is a
    problem.

    Raises:
        UserError: there is no such source, or its rows can't be told apart.
    """
    path = Path(source)
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in sum(_KINDS, ())
    if not path.exists():
        if not is_name:
            raise UserError(
                f"data.path: no file or folder {source}; expected rows as JSON, Parquet, CSV or "
                "TSV, or the name of a data set on the Hub (owner/name)"
            )
        path = _downloaded(str(source))
    files = [path] if path.is_file() else _files_of(path, columns)
    for row in (row for file in files for row in _rows_of_file(file, path, columns)):
        if isinstance(row.value, dict):
            wanted = {name: row.value[name] for name in columns if name in row.value}
            row = row._replace(value=wanted)
        if fault := _fault_of(row.value):
            problems.add(f"{row.place}{fault}")
        else:
            yield row


def read_as(source: str | Path, to: type[R], problems: Problems) -> Iterator[tuple[Row, R]]:
    """The rows of a source as msgspec structs; for others, a problem that names row and field."""
    columns = {field.encode_name for field in msgspec.structs.fields(to)}  # type: ignore[arg-type]
    for row in read_rows(source, columns, problems):
        value = convert(row, to, problems)
        if value is not None:
            yield row, value


def convert(row: Row, to: type[R], problems: Problems) -> R | None:
    """The value of a row as a type, or a problem that names row and field."""
    try:
        return msgspec.convert(row.value, to)
    except msgspec.ValidationError as error:
        problems.add(f"{row.place}: {error}")
        return None


def _files_of(folder: Path, columns: Collection[str]) -> list[Path]:
    wanted = ", ".join(sorted(columns))
    for suffixes in _KINDS:
        files = []
        for file in sorted(each for each in folder.rglob("*") if each.suffix in suffixes):
            first: Any = next(_json_values(file), {}) if suffixes is _JSON else ValueError()
            has_columns = isinstance(first, dict) and bool(first.keys() & set(columns))
            # What can't be read is a mistake, and reported when its turn comes.
            if has_columns or isinstance(first, ValueError):
                files.append(file)
            else:
                say(f"passed over: {file} (its first row has none of {wanted})")
        if files:
            return files
    raise UserError(f"data.path: no file of {folder} has rows with {wanted}")


def _rows_of_file(file: Path, source: Path, columns: Collection[str]) -> Iterator[Row]:
    if file.suffix == ".parquet":
        values = _parquet_values(file, columns)
    else:
        values = _separated_values(file) if file.suffix in _KINDS[2] else _json_values(file)
    name = file.stem if file == source else "-".join(file.relative_to(source).with_suffix("").parts)
    for number, value in enumerate(values, 1):
        yield Row(f"{name}-{number}", f"{file}, row {number:,}", value)


def _json_values(file: Path) -> Iterator[Any]:
    """The values of a JSON array, which is read whole, or those of lines; errors for what is none.

    Bytes that aren't UTF-8 come out as halves of surrogate pairs, and are found with these.
    """
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        first = next((line for line in stream if not line.isspace()), "").strip()
        stream.seek(0)
        is_whole = first.startswith("[") or first == "{"
        for text in [stream.read()] if is_whole else stream:
            try:
                found = [] if text.isspace() else json.loads(text)
            except (ValueError, RecursionError) as error:
                found = ValueError(f"not JSON: {error}")
            yield from found if isinstance(found, list) else [found]


def _parquet_values(file: Path, columns: Collection[str]) -> Iterator[Any]:
    try:
        with pq.ParquetFile(file) as parquet:
            names = [name for name in parquet.schema_arrow.names if name in columns]
            for batch in parquet.iter_batches(batch_size=256, columns=names):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read as Parquet: {error}") from error


def _separated_values(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(
            stream, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True
        )
        try:
            for value in reader:
                # What stands beyond the header's columns is kept under `None`.
                if None in value or None in value.values():
                    raise csv.Error("another number of columns than in the header")
                yield value
        except csv.Error as error:
            raise UserError(
                f"{file}, line {reader.line_num}: {error}; quote texts that hold the separator"
            ) from error


def _downloaded(name: str) -> Path:
    """The folder of a data set on the Hub, with those of its files that may hold rows."""
    # Imported here: most data lies on a disk.
    from huggingface_hub import snapshot_download

    kinds = [f"*{suffix}" for suffixes in _KINDS for suffix in suffixes]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=kinds))
    except (OSError, ValueError) as error:
        raise UserError(f"data.path: no file or folder {name}, and no data set: {error}") from error


def _fault_of(value: Any) -> str:
    """Why a value can't be used, and its field, in words: it isn't JSON, or no UTF-8."""
    if isinstance(value, ValueError):
        return f": {value}"
    for field, part in value.items() if isinstance(value, dict) else [("value", value)]:
        try:
            msgspec.json.encode(part)
        except UnicodeEncodeError as error:
            found = error.object[error.start]
            if "\udc80" <= found <= "\udcff":
                byte = ord(found) - 0xDC00
                return f", {field}: byte {byte:#04x} found, which isn't UTF-8; save it so"
            return f", {field}: {found!a} found, which is half of a surrogate pair; mend the text"
    return ""

"""The rows of a file, a folder or a data set on the Hub, each with the words for where it stands.

JSON is read here, one row after the other: readers that infer a schema, as that of `datasets`,
refuse rows that are well-formed (a number here, a text there).
"""

from __future__ import annotations

import codecs
import csv
import json
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
# Of a folder, the files of the first of these kinds that it has.
_KINDS = _PARQUET, _JSON, _TABLES = (".parquet",), (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_MOST_SHOWN = 20


class Row(NamedTuple):
    """One row: a name that no other row of its source has, its place in words, its value."""

    name: str
    place: str
    value: Any


class Problems(list[str]):
    """Mistakes in rows, reported together; of many, the first."""

    def raise_if_any(self, advice: str = "mend them") -> None:
        """Report what was found as a `UserError`, if there is anything."""
        if self:
            shown = self[:_MOST_SHOWN]
            raise UserError([*shown, f"mistakes in rows: {len(self):,}; {advice}"])


def read_rows(source: str | Path, columns: Collection[str], problems: Problems) -> Iterator[Row]:
    """The rows of a source in order, with no other columns than these.

    A source is a file (a JSON array, JSON lines, Parquet, CSV or TSV, whose values are all texts),
    a folder of such files, or `owner/name` on the Hub. Other JSON files of a folder are passed
    over, and it is said which. A row that isn't JSON, or has text that isn't Unicode, is a problem.

    Raises:
        UserError: there is no such source, or its rows can't be told apart.
    """
    path = Path(source)
    path = path if path.exists() else _downloaded(str(source))
    for file in [path] if path.is_file() else _files_of(path, columns):
        if file.suffix in _PARQUET:
            values = _parquet_values(file, columns)
        else:
            values = _table_values(file) if file.suffix in _TABLES else _json_values(file)
        parts = [file.stem] if file == path else file.relative_to(path).with_suffix("").parts
        for number, value in enumerate(values, 1):
            place = f"{file}, row {number:,}"
            if isinstance(value, dict):
                value = {name: value[name] for name in columns if name in value}
            try:
                if isinstance(value, ValueError):
                    raise value
                # A quick way to find halves of surrogate pairs, which no file can hold.
                msgspec.msgpack.encode(value, enc_hook=str)
            except (ValueError, OverflowError) as error:
                problems.append(f"{place}: {error}")
            else:
                yield Row(f"{'-'.join(parts)}-{number}", place, value)


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
        problems.append(f"{row.place}: {error}")
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


def _json_values(file: Path) -> Iterator[Any]:
    """The values of a JSON array, which is read whole, or of lines; errors for what isn't JSON."""
    with file.open("rb") as stream:
        first = next((line for line in stream if not line.isspace()), b"").strip()
        stream.seek(0)
        is_whole = first.removeprefix(codecs.BOM_UTF8).startswith(b"[") or first == b"{"
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


def _table_values(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = "\t" if file.suffix == ".tsv" else ","
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            for value in reader:
                # What stands beyond the header's columns is kept under `None`.
                if None in value or None in value.values():
                    raise csv.Error("another number of columns than in the header")
                yield value
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{file}, line {reader.line_num}: {error}; expected UTF-8, and quotes around texts "
                "that hold the separator"
            ) from error


def _downloaded(name: str) -> Path:
    """The folder of a data set on the Hub, with those of its files that may hold rows."""
    # Imported here: most data lies on a disk.
    from huggingface_hub import snapshot_download

    suffixes = sum(_KINDS, ())
    try:
        if "/" not in name or name.endswith(suffixes):
            raise FileNotFoundError(name)
        patterns = [f"*{suffix}" for suffix in suffixes]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.path: no file or folder {name}, and no data set on the Hub (owner/name): {error}"
        ) from error

"""Files of rows, of any size: where their chunks are, and the rows of a chunk as JSON.

A file is JSON lines, a JSON array or Parquet. Whatever it is, a row comes out as the bytes of one
JSON object, so that all that follows is the same. Chunks depend on the file alone, not on who reads
them; a row is found again by its `RowSpan`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from alignxplore_trl.run.errors import UserError

FileFormat = Literal["lines", "array", "parquet"]
# Bytes of a chunk of JSON, and how much of an array is looked through at once.
CHUNK_BYTES = 16 * 2**20
_WINDOW_BYTES = 2**20
_BUFFER_BYTES = 2**20
_PARQUET_ROWS = 512
# What is longer in an array, in bytes, is no row: a quotation mark is missing.
_LONGEST_ROW = 64 * 2**20
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowFile:
    """A file of rows.

    Attributes:
        path: where it is.
        format: how it is written.
        name: what its rows are named after: without its ending and, of several files, with the
            folders between.
    """

    path: Path
    format: FileFormat
    name: str


@dataclass(frozen=True)
class Chunk:
    """A part of a file that is read at once: a range of bytes or, in Parquet, one row group."""

    file: RowFile
    start: int
    end: int


class RowSpan(NamedTuple):
    """Where a row stands: first byte and length or, in Parquet, row group and row in it."""

    start: int
    length: int


def find_files(source: str) -> list[RowFile]:
    """The files of a source, in the order of their names.

    Args:
        source: a file, a folder of files, or a data set's name on the Hub (`owner/name`), which is
            downloaded into the Hub's own cache. Of a folder or a data set, the Parquet files are
            read if there are some, else those of JSON; files with other endings are none.

    Raises:
        UserError: there is no such file, it is compressed or in no known format, or the Hub can't
            give it.
    """
    path = Path(source)
    if not path.exists():
        if source.count("/") != 1 or path.suffix in _SUFFIXES:
            raise UserError(
                f"data.path: found no file or folder {source}, expected rows as JSON lines, a JSON "
                "array or Parquet, or the name of a data set on the Hub: owner/name"
            )
        path = _download(source)
    if path.is_file():
        return [RowFile(path, _format_of(path), path.stem)]
    found = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
    compressed = [file.name for file in path.rglob("*") if file.suffix in _COMPRESSED]
    if compressed:
        raise UserError(
            f"{path}: {', '.join(sorted(compressed))} found, which can't be read as they are; "
            "decompress them, or take them out"
        )
    chosen = [file for file in found if file.suffix == ".parquet"] or found
    if not chosen:
        raise UserError(f"{path}: no files found, expected some that end in {', '.join(_SUFFIXES)}")
    names = [file.relative_to(path).with_suffix("").as_posix().replace("/", "-") for file in chosen]
    return [RowFile(file, _format_of(file), name) for file, name in zip(chosen, names, strict=True)]


def chunks_of(file: RowFile, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The chunks of a file, in its order; each row belongs to exactly one of them.

    Of JSON lines, a chunk has the lines that start in its range. Finding the chunks of an array
    takes one pass over the file, because only its start says what is inside a text.

    Raises:
        UserError: a Parquet file isn't whole, or an array is damaged in a way that leaves no
            telling where its next row starts.
    """
    if file.format == "parquet":
        groups = _groups_of(file.path)
        yield from (Chunk(file, group, group + 1) for group in range(groups))
    elif file.format == "lines":
        size = file.path.stat().st_size
        for start in range(0, size, chunk_bytes):
            yield Chunk(file, start, min(size, start + chunk_bytes))
    else:
        yield from _array_chunks(file, chunk_bytes)


def unit_of(file: RowFile) -> Literal["line", "row"]:
    """What a person counts in a file."""
    return "line" if file.format == "lines" else "row"


def rows_of(chunk: Chunk) -> Iterator[tuple[RowSpan, bytes]]:
    """The rows of a chunk, each with where it stands; a line without text is one of white space."""
    if chunk.file.format == "parquet":
        for number, line in enumerate(_parquet_lines(chunk.file.path, chunk.start)):
            yield RowSpan(chunk.start, number), line
        return
    with chunk.file.path.open("rb", _BUFFER_BYTES) as stream:
        if chunk.file.format == "array":
            for _, start, text in _array_objects(stream, chunk.start, chunk.end):
                if text:
                    yield RowSpan(start, len(text)), text
        else:
            yield from _lines_in(stream, chunk)


def read_again(file: RowFile, spans: Collection[RowSpan]) -> Iterator[tuple[RowSpan, bytes]]:
    """The JSON of rows that were found before, in the order of the file."""
    if file.format == "parquet":
        for group in sorted({span.start for span in spans}):
            for span, line in rows_of(Chunk(file, group, group + 1)):
                if span in spans:
                    yield span, line
        return
    with file.path.open("rb") as stream:
        for span in sorted(spans, key=lambda span: span.start):
            stream.seek(span.start)
            yield span, stream.read(span.length).removeprefix(_BYTE_ORDER_MARK)


def _download(name: str) -> Path:
    # Imported here: the Hub's client is only needed for rows that aren't on this machine.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [f"*{suffix}" for suffix in _SUFFIXES]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data.path: the data set {name} can't be had from the Hub ({type(error).__name__}: "
            f"{reason}); download it where there is a network, and give the folder"
        ) from error


def _format_of(path: Path) -> FileFormat:
    with path.open("rb") as stream:
        start = stream.read(4)
        if start == b"PAR1":
            return "parquet"
        stream.seek(0)
        start = _first_sign(stream)
        if start == b"[":
            return "array"
        if start == b"{":
            return "lines"
        start += stream.read(40)
    if start.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: compressed by gzip, expected plain rows; decompress it first")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 found, expected UTF-8; save it as UTF-8")
    found = f"starts with {start.decode(errors='replace')!r}" if start else "the file is empty"
    raise UserError(
        f"{path}: {found}, expected JSON lines (each line one {{…}}), a JSON array ([…]) or "
        "Parquet; convert other formats first (data=mapping also reads files that end in .csv or "
        ".tsv)"
    )


def _first_sign(stream: BinaryIO) -> bytes:
    """The first byte that isn't white space; the stream stands behind it."""
    if stream.read(3) != _BYTE_ORDER_MARK:
        stream.seek(0)
    while (sign := stream.read(1)).isspace():
        pass
    return sign


# --- JSON lines -----------------------------------------------------------------------------------
def _lines_in(stream: BinaryIO, chunk: Chunk) -> Iterator[tuple[RowSpan, bytes]]:
    start = chunk.start
    if start:  # The line that this byte is in belongs to the chunk before, unless it starts here.
        stream.seek(start - 1)
        start += len(stream.readline()) - 1
    while start < chunk.end and (line := stream.readline()):
        yield RowSpan(start, len(line)), line if start else line.removeprefix(_BYTE_ORDER_MARK)
        start += len(line)


# --- a JSON array ---------------------------------------------------------------------------------
def _array_chunks(file: RowFile, chunk_bytes: int) -> Iterator[Chunk]:
    first: int | None = None
    end = number = 0
    with file.path.open("rb") as stream:
        _first_sign(stream)
        for gap, start, text in _array_objects(stream, stream.tell(), sys.maxsize):
            expected = b"]" if not text else b"," if number else b""
            if gap.strip() != expected:
                raise _broken_array(file.path, number, gap)
            if not text:
                break
            first = start if first is None else first
            end, number = start + len(text), number + 1
            if end - first >= chunk_bytes:
                yield Chunk(file, first, end)
                first = None
    if first is not None:
        yield Chunk(file, first, end)


def _array_objects(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, bytes]]:
    """The objects of an array between two places: what stands before each, its place, its text.

    The last of them has no text: before it stands what is left over.
    """
    stream.seek(start)
    rest = b""
    while window := stream.read(min(_WINDOW_BYTES, end - start - len(rest))):
        text, done = rest + window, 0
        for first, last in _objects_in(text):
            yield text[done:first], start + first, text[first:last]
            done = last
        start, rest = start + done, text[done:]
        if len(rest) > _LONGEST_ROW:
            break
    yield rest, start, b""


def _broken_array(path: Path, number: int, found: bytes) -> UserError:
    shown = found[:60].decode(errors="replace")
    return UserError(
        f"{path}, behind row {number}: {shown!r} found, expected a comma and the next row, or the "
        "end of the array; from here on the rows can't be told apart. Mend it, or convert the rows "
        "that can be read to JSON lines, where one broken line costs nothing but itself"
    )


def _objects_in(text: bytes) -> list[tuple[int, int]]:
    """Where the whole objects and lists in an array start and end; `text` starts between two."""
    signs = np.frombuffer(text, np.uint8)
    quotes = _without_escaped(signs, np.flatnonzero(signs == ord('"')))
    # The codes of "[" and "{" differ in one bit, 0x20, and so do those of "]" and "}".
    folded = signs | 0x20
    braces = np.flatnonzero((folded == ord("{")) | (folded == ord("}")))
    braces = braces[np.searchsorted(quotes, braces) % 2 == 0]
    closes = folded[braces] == ord("}")
    depth = np.cumsum(np.where(closes, -1, 1))
    ends = np.flatnonzero((depth == 0) & closes)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    return list(zip(braces[starts].tolist(), (braces[ends] + 1).tolist(), strict=True))


def _without_escaped(
    signs: npt.NDArray[np.uint8], quotes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The quotation marks that open or close a text: no odd number of backslashes before them."""
    real = np.ones(len(quotes), bool)
    for index in np.flatnonzero(signs[np.maximum(quotes - 1, 0)] == ord("\\")):
        end = place = int(quotes[index])
        while place and signs[place - 1] == ord("\\"):
            place -= 1
        real[index] = (end - place) % 2 == 0
    return quotes[real]


# --- Parquet --------------------------------------------------------------------------------------
# The libraries are imported here: processes that read JSON start sooner without them.
def _groups_of(path: Path) -> int:
    """How many row groups a file has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(path).num_row_groups)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None


def _parquet_lines(path: Path, group: int) -> Iterator[bytes]:
    """The rows of a row group as JSON lines; a few hundred are in memory at a time."""
    import polars
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        batches = file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group])
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(
                    f"{path}, row group {group + 1}: damaged: {error}; get the file again"
                ) from None
            if batch is None:
                return
            lines = io.BytesIO()
            polars.DataFrame(pa.Table.from_batches([batch])).write_ndjson(lines)
            yield from lines.getvalue().splitlines()

"""Where cases come from, and the files in which prepared cases are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.data.alignx import Dimension, read_alignx
from alignxplore_trl.data.privacy import anonymise_cases
from alignxplore_trl.data.splits import SPLITS, CaseSplits, split_cases
from alignxplore_trl.data.world import RefinedSplit, SignalKind, Split, World, check_world
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase, case_from_dict, case_to_dict

__all__ = ["SPLITS", "CaseSplits", "load_alignx", "load_world", "read_split", "write_splits"]

# What case_to_dict nests is written as JSON, so that a file has one schema whatever the signals.
_NESTED_COLUMNS = ("signals", "target", "directions")
CASE_COLUMNS = ("case_id", "user_id", "cluster", *_NESTED_COLUMNS, "description")
_SCHEMA = pa.schema([(name, pa.string()) for name in CASE_COLUMNS])


def load_world(world: World, counts: Mapping[Split, int]) -> CaseSplits:
    """Draw cases from the simulated world.

    Args:
        world: what to draw from; there are as many users as are asked for.
        counts: how many cases each split is to have.

    Raises:
        UserError: the world can't be drawn with these settings.
    """
    if problems := check_world(world):
        raise UserError(problems)
    splits = {split: world.cases(split, counts.get(split, 0)) for split in SPLITS}
    return CaseSplits(
        **splits, counts={f"cases/{split}": len(cases) for split, cases in splits.items()}
    )


def load_alignx(
    source: str,
    signals_needed: int,
    counts: Mapping[Split, int],
    seed: int,
    dimensions: Sequence[Dimension],
    signal_kind: SignalKind = "comparisons",
    *,
    anonymise: bool = False,
    strict: bool = True,
) -> CaseSplits:
    """Read ALIGNX-shaped files and split them by user and by post.

    Args:
        source: a file, a folder of files or a name on the Hub, see `find_files`.
        signals_needed: cases with fewer signals are left out and counted.
        counts: how many cases each split is to have; smaller in proportion if there are fewer.
        seed: decides which users go into which split.
        dimensions: what the entries of a direction vector mean.
        signal_kind: which signals of a row become its case's history.
        anonymise: whether links, addresses, numbers and user names are replaced, before the posts
            of splits are compared.
        strict: whether a row that isn't in the format is an error; if not, it is told, left out
            and counted.

    Raises:
        UserError: the file is not in the format, or a split gets no case.
    """
    read = read_alignx(source, signals_needed, dimensions, signal_kind, strict=strict)
    return split_and_count(
        read.cases, read.counts, counts, signals_needed, seed, anonymise=anonymise
    )


def split_and_count(
    cases: Sequence[PreferenceCase],
    found: Mapping[str, int],
    sizes: Mapping[Split, int],
    signals_needed: int,
    seed: int,
    *,
    anonymise: bool,
) -> CaseSplits:
    """Split what was read of a file, anonymised first if that is asked for; count all of it.

    Args:
        cases: of any number of users.
        found: what the reader counted.
        sizes: how many cases each split is to have.
        signals_needed: a case with fewer signals is of no use.
        seed: decides which users go into which split.
        anonymise: see `anonymise_cases`.

    Raises:
        UserError: a split that is to have cases gets none.
    """
    replaced: Mapping[str, int] = {}
    if anonymise:
        anonymised = anonymise_cases(cases, signals_needed)
        cases, replaced = anonymised.cases, anonymised.counts
    splits = split_cases(cases, sizes, signals_needed, seed)
    every = [found, replaced, splits.counts]
    reasons = sorted({name for counts in every for name in counts})
    return replace(
        splits, counts={name: sum(counts.get(name, 0) for counts in every) for name in reasons}
    )


def write_splits(folder: Path, splits: CaseSplits) -> None:
    """Write one Parquet file per split; the same cases give the same bytes."""
    for split in SPLITS:
        write_split(folder, split, splits[split])


def write_split(folder: Path, split: RefinedSplit, cases: Sequence[PreferenceCase]) -> None:
    """Write the cases of one split to a Parquet file; the same cases give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [case_to_columns(case) for case in cases]
    unfinished = folder / f".{split}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), unfinished)
    unfinished.replace(folder / f"{split}.parquet")


def read_split(folder: Path, split: RefinedSplit) -> list[PreferenceCase]:
    """Read the cases of one split.

    Raises:
        UserError: there is no such file, or it was not written by `write_splits`.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file; prepare the data first")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None
    if table.schema != _SCHEMA:
        raise UserError(
            f"{path}: the columns {', '.join(table.column_names)} found, expected texts in "
            f"{', '.join(CASE_COLUMNS)}; prepare the data again"
        )
    return [case_from_columns(row) for row in table.to_pylist()]


def case_to_columns(case: PreferenceCase) -> dict[str, Any]:
    """A case as a row of texts; what `case_to_dict` nests is JSON, `"null"` where it is `None`."""
    row = case_to_dict(case)
    return row | {name: json.dumps(row[name], ensure_ascii=False) for name in _NESTED_COLUMNS}


def case_from_columns(row: Mapping[str, Any]) -> PreferenceCase:
    """The inverse of `case_to_columns`; other columns are passed over."""
    return case_from_dict({**row, **{name: json.loads(row[name]) for name in _NESTED_COLUMNS}})

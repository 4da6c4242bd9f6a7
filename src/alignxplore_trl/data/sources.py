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
from alignxplore_trl.data.splits import SPLITS, CaseSplits, RefinedSplit, split_cases
from alignxplore_trl.data.world import SignalKind, Split, World, check_world
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase, case_from_dict, case_to_dict

__all__ = ["SPLITS", "CaseSplits", "load_alignx", "load_world", "read_split", "write_splits"]

# What case_to_dict nests is written as JSON, so that a file has one schema whatever the signals.
_NESTED_COLUMNS = ("signals", "target", "directions")
_COLUMNS = ("case_id", "user_id", "cluster", *_NESTED_COLUMNS, "description")
_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])


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
    path: Path,
    signals_needed: int,
    counts: Mapping[Split, int],
    seed: int,
    dimensions: Sequence[Dimension],
    signal_kind: SignalKind = "comparisons",
    *,
    strict: bool = True,
) -> CaseSplits:
    """Read an ALIGNX-shaped file and split it by user and by post.

    Args:
        path: a JSON array, JSON lines or Parquet.
        signals_needed: cases with fewer signals are left out and counted.
        counts: how many cases each split is to have; smaller in proportion if there are fewer.
        seed: decides which users go into which split.
        dimensions: what the entries of a direction vector mean.
        signal_kind: which signals of a row become its case's history.
        strict: whether a row that isn't in the format is an error; if not, it is told, left out
            and counted.

    Raises:
        UserError: the file is not in the format, or a split gets no case.
    """
    read = read_alignx(path, signals_needed, dimensions, signal_kind, strict=strict)
    splits = split_cases(read.cases, counts, signals_needed, seed)
    reasons = sorted({*read.counts, *splits.counts})
    return replace(
        splits,
        counts={name: read.counts.get(name, 0) + splits.counts.get(name, 0) for name in reasons},
    )


def write_splits(folder: Path, splits: CaseSplits) -> None:
    """Write one Parquet file per split; the same cases give the same bytes."""
    for split in SPLITS:
        write_split(folder, split, splits[split])


def write_split(folder: Path, split: RefinedSplit, cases: Sequence[PreferenceCase]) -> None:
    """Write the cases of one split to a Parquet file; the same cases give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_to_columns(case) for case in cases]
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
            f"{', '.join(_COLUMNS)}; prepare the data again"
        )
    return [case_from_dict(_from_columns(row)) for row in table.to_pylist()]


def _to_columns(case: PreferenceCase) -> dict[str, Any]:
    row = case_to_dict(case)
    return row | {name: json.dumps(row[name], ensure_ascii=False) for name in _NESTED_COLUMNS}


def _from_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **{name: json.loads(row[name]) for name in _NESTED_COLUMNS}}

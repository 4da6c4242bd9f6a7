"""The Parquet files of an evaluation, from which all its figures can be computed again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.data.sources import CASE_COLUMNS, case_to_columns
from alignxplore_trl.evaluation.groups import GroupRow
from alignxplore_trl.evaluation.scoring import DescriptionRow, VerdictRow
from alignxplore_trl.signals import PreferenceCase

_VERDICTS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("judge", pa.string()),
        ("method", pa.string()),
        ("setting", pa.string()),
        ("case_id", pa.string()),
        ("cluster", pa.string()),
        ("correct", pa.float64()),
        ("p_correct", pa.float64()),
        ("margin", pa.float64()),
        ("position_gap", pa.float64()),
    ]
)
_DESCRIPTIONS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("method", pa.string()),
        ("setting", pa.string()),
        ("case_id", pa.string()),
        ("cluster", pa.string()),
        ("completion", pa.string()),
        ("reasoning", pa.string()),
        ("description", pa.string()),
        ("earlier", pa.string()),
        ("format_problem", pa.string()),
        ("completion_tokens", pa.int64()),
        ("description_tokens", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("ended", pa.bool_()),
        ("dropped_signals", pa.int64()),
        ("shortened_texts", pa.int64()),
    ]
)
_CASES = pa.schema([(name, pa.string()) for name in ("benchmark", *CASE_COLUMNS)])
_GROUPS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("judge", pa.string()),
        ("method", pa.string()),
        ("setting", pa.string()),
        ("dimension", pa.string()),
        ("pole", pa.string()),
        ("cases", pa.int64()),
        ("accuracy", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def write_verdicts(path: Path, rows: Iterable[VerdictRow]) -> None:
    """Write verdicts, of any number of benchmarks, to a file that is complete or not there."""
    _write(path, [vars(row) for row in rows], _VERDICTS)


def write_descriptions(path: Path, rows: Iterable[DescriptionRow]) -> None:
    """Write what methods said to a file that is complete or not there."""
    _write(path, [{**vars(row.said), **vars(row)} for row in rows], _DESCRIPTIONS)


def write_cases(path: Path, cases: Mapping[str, Sequence[PreferenceCase]]) -> None:
    """Write the cases of each benchmark to a file that is complete or not there.

    Signals, target and directions are JSON texts, as in the files of prepared cases.
    """
    rows = [
        {"benchmark": benchmark, **case_to_columns(case)}
        for benchmark, own in cases.items()
        for case in own
    ]
    _write(path, rows, _CASES)


def write_groups(path: Path, rows: Iterable[GroupRow]) -> None:
    """Write accuracies by attribute group to a file that is complete or not there."""
    _write(path, [vars(row) for row in rows], _GROUPS)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist(rows, schema), unfinished)
    os.replace(unfinished, path)

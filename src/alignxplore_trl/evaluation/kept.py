"""The Parquet files of an evaluation, to which rows are added, and from which all figures are made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.cases import read_cases, write_cases
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.run.folder import FREE, write_text


class Table:
    """Rows in a Parquet file, each found by its key; half a file is never left behind.

    Args:
        path: the file; made with the first rows.
        keys: the columns that tell one row from another.
        columns: all others, with the types that pandas keeps them in.
    """

    def __init__(self, path: Path, keys: Sequence[str], columns: dict[str, str]) -> None:
        self.path = path
        self.keys = list(keys)
        self._types = dict.fromkeys(keys, "string") | columns
        self.rows = pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=self._types)
        self.rows = self.rows.astype(self._types)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; one with the key of another takes its place."""
        if not rows:
            return
        new = pd.DataFrame(rows, columns=list(self._types)).astype(self._types)
        both = pd.concat([self.rows, new], ignore_index=True)
        self.rows = both.drop_duplicates(self.keys, keep="last", ignore_index=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        self.rows.to_parquet(part, index=False)
        part.replace(self.path)

    def at(self, **where: str) -> pd.DataFrame:
        """The rows with these values."""
        return rows_at(self.rows, where)


def rows_at(rows: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def keep_cases(folder: Path, benchmarks: Sequence[Benchmark]) -> None:
    """Add the cases of each benchmark, with the truth that is scored, to `<benchmark>.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for benchmark in benchmarks:
        path = folder / f"{benchmark.name}.jsonl"
        kept = read_cases(path) if path.is_file() else []
        both = {case.case_id: case for case in (*kept, *benchmark.scored)}
        write_cases(path, both.values())


def differences(path: Path, specs: Mapping[str, Any]) -> dict[str, list[str]]:
    """What differs from the specifications that are kept by name; new ones are added.

    Rows are found by names. Another model under the name of one that was scored would pass its
    verdicts off as its own.

    Returns:
        Of each name whose specification differs, the keys in which it does. Those that change
        nothing, such as URLs, aren't compared.
    """
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found = {}
    for name, spec in specs.items():
        one, other = _flat(kept.setdefault(name, spec)), _flat(spec)
        keys = [key for key in sorted(one | other) if one.get(key) != other.get(key)]
        if keys := [key for key in keys if not any(fnmatch(f".{key}", each) for each in FREE)]:
            found[name] = keys
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(kept, indent=1, ensure_ascii=False))
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    inner = (_flat(each, f"{prefix}.{name}".lstrip(".")) for name, each in value.items())
    return {key: each for own in inner for key, each in own.items()}

"""Files of an evaluation, to which is added what is asked for and isn't there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.run.folder import StageFolder


class Table:
    """Rows in a Parquet file, each found by its key; half a file is never left behind.

    `keys` are the columns that tell one row from another, `columns` all others with their types.
    """

    def __init__(self, path: Path, keys: Sequence[str], columns: Mapping[str, str]) -> None:
        self.path, self.keys = path, list(keys)
        self._types = {**dict.fromkeys(keys, "string"), **columns}
        self.rows = (
            pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=[*self._types])
        )
        self.rows = self.rows.astype(self._types)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; one with the key of another takes its place."""
        if not rows:
            return
        new = pd.DataFrame(rows, columns=list(self._types)).astype(self._types)
        both = pd.concat([self.rows, new], ignore_index=True)
        self.rows = both.drop_duplicates(self.keys, keep="last", ignore_index=True)
        part = self.path.with_suffix(".part")
        self.rows.to_parquet(part, index=False)
        part.replace(self.path)


def rows_at(rows: pd.DataFrame, **where: str) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of Python's own values, `None` where one is missing."""
    known = rows.astype(object).where(rows.notna(), None)
    return [dict(zip(known.columns, row, strict=True)) for row in known.itertuples(index=False)]


def differences(folder: Path, specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs from the specifications that are kept by name; new ones are kept.

    Rows are found by names. Another model under the name of one that was scored would pass its
    verdicts off as its own.
    """
    found = []
    for name, spec in specs.items():
        kept = StageFolder(folder / "made_with" / name)
        found += kept.differences({name: dict(spec)})
        if not kept.path.is_dir():
            kept.begin({name: dict(spec)})
    return found

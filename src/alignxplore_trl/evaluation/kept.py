"""Files of an evaluation, to which is added what is asked for and isn't there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alignxplore_trl.run.folder import StageFolder

PLACE = ["benchmark", "method", "setting"]
KEY = [*PLACE, "case_id"]


class Table:
    """Rows in `<name>.parquet`, each found by its key; half a file is never left behind.

    Args:
        folder: of the evaluation.
        name: of the table.
        more_keys: what tells rows apart beside `KEY`.
        **columns: the other columns, beside `unit`, with their types.
    """

    def __init__(self, folder: Path, name: str, *more_keys: str, **columns: str) -> None:
        self.path, self.keys = folder / f"{name}.parquet", [*more_keys, *KEY]
        self._types = {**dict.fromkeys([*self.keys, "unit"], "string"), **columns}
        kept = pd.read_parquet(self.path) if self.path.is_file() else pd.DataFrame()
        self.rows = kept.reindex(columns=list(self._types)).astype(self._types)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; one with the key of another takes its place."""
        new = pd.DataFrame(list(rows), columns=list(self._types)).astype(self._types)
        both = pd.concat([self.rows, new], ignore_index=True)
        self.rows = both.drop_duplicates(self.keys, keep="last", ignore_index=True)
        part = self.path.with_suffix(".part")
        self.rows.to_parquet(part, index=False)
        part.replace(self.path)

    def at(self, place: Mapping[str, str]) -> pd.DataFrame:
        """The rows that have these values in these columns."""
        return self.rows[(self.rows[list(place)] == pd.Series(place)).all(axis=1)]

    def lacking(self, rows: pd.DataFrame, answer: str) -> pd.DataFrame:
        """Those of the rows that aren't in the table, or have no `answer` there."""
        known = self.rows.dropna(subset=answer)
        places, there = (pd.MultiIndex.from_frame(each[self.keys]) for each in (rows, known))
        return rows[~places.isin(there)]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of Python's own values, `None` where one is missing."""
    found: list[Any] = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return found


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

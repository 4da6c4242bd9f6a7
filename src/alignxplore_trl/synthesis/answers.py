"""What teachers wrote and judges said of it, kept on disk as it arrives."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.database import open_log, select_keys, told_in_words
from alignxplore_trl.synthesis.teachers import Ask

_WHAT = "the cache of what teachers wrote"
_COLUMNS = ", ".join(field.name for field in fields(Written))
_TABLES = (
    f"CREATE TABLE IF NOT EXISTS written (key BLOB PRIMARY KEY, {_COLUMNS})",
    "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, score REAL, reward REAL)",
)


@dataclass(frozen=True)
class Verified:
    """What a verification measured, and the reward that it gives."""

    score: float
    reward: float


class TeacherAnswers:
    """An SQLite file that a run goes on from after it was killed, and that later runs use, too.

    Each answer is written when it arrives: a killed process loses none that it had received. (A
    machine that loses its power may lose the last ones.) An answer is found by everything that it
    is a function of: the teacher's identity (model and sampling), what was asked for (kind, case,
    round, number), and the prompt (template, signals, earlier description, dimensions).

    Args:
        path: the file; made with its folder if there is none.

    Raises:
        UserError: the file is no such database, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Answers arrive in another thread than they are worked on.
        self._lock = threading.Lock()
        with told_in_words(self.path, _WHAT):
            self._database = open_log(self.path)
            for table in _TABLES:
                self._database.execute(table)

    def close(self) -> None:
        """Close the file; nothing can be found or kept after it."""
        with self._lock:
            self._database.close()

    def find(self, identity: str, asks: Iterable[Ask]) -> dict[Ask, Written]:
        """What the teacher wrote when it was asked this before, where it was."""
        keys = {_key(identity, ask): ask for ask in asks}
        found = self._find(f"SELECT key, {_COLUMNS} FROM written WHERE key IN", list(keys))
        return {keys[key]: Written(*values) for key, *values in found}

    def keep(self, identity: str, written: Sequence[tuple[Ask, Written]]) -> None:
        """Keep what the teacher wrote."""
        marks = ", ".join("?" * (1 + len(fields(Written))))
        rows = [
            (_key(identity, ask), *(getattr(own, field.name) for field in fields(Written)))
            for ask, own in written
        ]
        self._keep(f"INSERT OR IGNORE INTO written VALUES ({marks})", rows)

    def find_verdicts(self, keys: Iterable[str]) -> dict[str, Verified]:
        """What the verification said when it was asked this before, where it was."""
        hashed = {hashlib.sha256(key.encode()).digest(): key for key in keys}
        query = "SELECT key, score, reward FROM verdicts WHERE key IN"
        found = self._find(query, list(hashed))
        return {hashed[key]: Verified(*values) for key, *values in found}

    def keep_verdicts(self, verdicts: Mapping[str, Verified]) -> None:
        """Keep what the verification said, by what it was asked."""
        rows = [
            (hashlib.sha256(key.encode()).digest(), verdict.score, verdict.reward)
            for key, verdict in verdicts.items()
        ]
        self._keep("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)

    def _find(self, query: str, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        with told_in_words(self.path, _WHAT), self._lock:
            return select_keys(self._database, query, keys)

    def _keep(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        # The connection commits at the end; or rolls back, so that the next entries can be kept.
        with told_in_words(self.path, _WHAT), self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(statement, rows)


def _key(identity: str, ask: Ask) -> bytes:
    parts = [identity, ask.kind, ask.case_id, ask.round, ask.number, ask.prompt]
    return hashlib.sha256(json.dumps(parts).encode()).digest()

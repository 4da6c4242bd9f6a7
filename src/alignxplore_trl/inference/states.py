"""What is known of each user: versions of the description, and the signals each of them has read.

An SQLite file. Signals are put down first and read later: a version and the marks on the signals it
has read are one transaction, so that a process may die at any moment, and others may write in the
meantime, and still each signal is read once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from alignxplore_trl.cases import Signal
from alignxplore_trl.inference.describer import Description, NotDescribedError, PreferenceDescriber
from alignxplore_trl.run.errors import UserError

_SECONDS_TO_WAIT = 60.0
_TABLES = """
PRAGMA secure_delete = ON;  -- What is forgotten is overwritten.
CREATE TABLE IF NOT EXISTS signals (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, id TEXT NOT NULL,
    signal TEXT NOT NULL, added TEXT NOT NULL, version INTEGER, UNIQUE (user, id, signal)
);
CREATE INDEX IF NOT EXISTS pending ON signals (user, version, number);
CREATE TABLE IF NOT EXISTS versions (
    user TEXT NOT NULL, version INTEGER NOT NULL, written TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (user, version)
) WITHOUT ROWID;
"""


class Version(NamedTuple):
    """One version of a user's description; numbers count from 1, times are in UTC."""

    number: int
    written: str
    content: Description


class UserStates:
    """The states of users in one file, which is made with its folder if there is none.

    Any number of processes may use the same file; each opens it for itself. Methods raise
    `sqlite3.Error` where the file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, _SECONDS_TO_WAIT, isolation_level="IMMEDIATE")
        self._database.executescript(_TABLES)

    def __enter__(self) -> UserStates:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, user: str, signals: Sequence[tuple[str, Signal]]) -> int:
        """Put down signals with their ids, oldest first, and return how many are new.

        One that has the id and the content of another is the same signal; ids may be empty.
        """
        insert = "INSERT OR IGNORE INTO signals (user, id, signal, added) VALUES (?, ?, ?, ?)"
        rows = [(user, name, msgspec.json.encode(own).decode(), _now()) for name, own in signals]
        with self._database as database:
            return database.executemany(insert, rows).rowcount

    def pending(self, user: str, most: int = -1) -> tuple[int, dict[int, Signal]]:
        """The last version's number, and the signals that no version has read, by their numbers.

        Signals come oldest first, at most so many. Both are of the same moment.
        """
        rows = self._database.execute(
            "SELECT (SELECT COUNT(*) FROM versions v WHERE v.user = s.user), number, signal "
            "FROM signals s WHERE user = ? AND version IS NULL ORDER BY number LIMIT ?",
            (user, most),
        ).fetchall()
        signals = {number: msgspec.json.decode(text, type=Signal) for _, number, text in rows}
        return (rows[0][0] if rows else 0), signals

    def versions(self, user: str) -> list[Version]:
        """All versions of a user's description, oldest first; the last one holds."""
        query = "SELECT version, written, content FROM versions WHERE user = ? ORDER BY version"
        rows = self._database.execute(query, (user,))
        return [Version(n, at, msgspec.json.decode(text, type=Description)) for n, at, text in rows]

    def commit(self, user: str, base: int, read: Sequence[int], content: Description) -> bool:
        """Add the version behind `base` and mark the signals it has read, by their numbers.

        Returns:
            Whether it was done: neither is if one of them was read before.
        """
        mark = "UPDATE signals SET version = ? WHERE number = ? AND version IS NULL"
        row = (user, base + 1, _now(), msgspec.json.encode(content).decode())
        with self._database as database:
            marked = database.executemany(mark, [(base + 1, number) for number in read]).rowcount
            if marked < len(read):
                database.rollback()
                return False
            database.execute("INSERT INTO versions VALUES (?, ?, ?, ?)", row)
        return True

    def users(self) -> list[str]:
        """All users of whom anything is kept, in alphabetical order."""
        rows = self._database.execute("SELECT DISTINCT user FROM signals ORDER BY user")
        return [user for (user,) in rows]

    def export(self, user: str) -> dict[str, Any]:
        """All that is kept of a user, as JSON-ready values.

        Raises:
            UserError: nothing is kept of them.
        """
        query = "SELECT signal, added, version FROM signals WHERE user = ? ORDER BY number"
        signals = [
            msgspec.json.decode(text) | {"added": added, "version": version}
            for text, added, version in self._database.execute(query, (user,))
        ]
        if not signals:
            raise UserError(f"{self.path}: no user {user!r}; `alignxplore show` lists all users")
        versions = [msgspec.to_builtins(own._asdict()) for own in self.versions(user)]
        return {"user": user, "signals": signals, "versions": versions}

    def forget(self, user: str) -> None:
        """Delete all that is kept of a user.

        Raises:
            UserError: nothing is kept of them.
        """
        self.export(user)
        with self._database as database:
            for table in ("signals", "versions"):
                database.execute(f"DELETE FROM {table} WHERE user = ?", (user,))


def catch_up(
    states: UserStates, describer: PreferenceDescriber, users: Sequence[str], per_round: int
) -> Iterator[tuple[str, int, Description | NotDescribedError]]:
    """Read what is pending of some users, all of them together, round by round until nothing is.

    Yields:
        Each user with the number and content of a version, once it is kept; or, of signals that
        stay pending, with 0 and the reason.
    """
    waiting = list(users)
    while True:
        found = {user: states.pending(user, per_round) for user in waiting}
        rounds = {user: own for user, own in found.items() if own[1]}
        if not rounds:
            return
        requests = [
            (states.versions(user)[base - 1].content.description if base else None, [*own.values()])
            for user, (base, own) in rounds.items()
        ]
        outcomes = zip(rounds.items(), describer.write(requests), strict=True)
        for (user, (base, signals)), outcome in outcomes:
            if isinstance(outcome, NotDescribedError):
                waiting.remove(user)
                yield user, 0, outcome
            elif states.commit(user, base, list(signals), outcome):
                yield user, base + 1, outcome


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

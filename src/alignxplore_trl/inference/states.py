"""What is known of each user: versions of the description, and the signals each of them has read.

An SQLite file. Signals are put down first and read later: a version and the marks on the signals it
has read are one transaction, so that a process may die at any moment, and others may write in the
meantime, and still each signal is read once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from alignxplore_trl.cases import Signal
from alignxplore_trl.inference.describer import Description, NotDescribedError, PreferenceDescriber
from alignxplore_trl.run.errors import UserError

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


class UserStates:
    """The states of users in one file, which is made with its folder if there is none.

    Any number of processes may use the same file; each opens it for itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60.0, isolation_level="IMMEDIATE")
        self._database.executescript(_TABLES)

    def __enter__(self) -> UserStates:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, user: str, signals: Sequence[tuple[str, Signal]]) -> int:
        """Put down signals with their ids, oldest first, and return how many are new.

        One that has the id and the content of another is the same signal; ids may be empty.
        """
        insert = "INSERT OR IGNORE INTO signals VALUES (NULL, ?, ?, ?, CURRENT_TIMESTAMP, NULL)"
        rows = [(user, name, msgspec.json.encode(own).decode()) for name, own in signals]
        with self._database as database:
            return database.executemany(insert, rows).rowcount

    def pending(self, user: str, most: int = -1) -> dict[int, Signal]:
        """The signals that no version has read, by their numbers: the oldest, at most so many."""
        rows = self._database.execute(
            "SELECT number, signal FROM signals WHERE user = ? AND version IS NULL "
            "ORDER BY number LIMIT ?",
            (user, most),
        )
        return {number: msgspec.json.decode(text, type=Signal) for number, text in rows}

    def versions(self, user: str) -> list[Description]:
        """All versions of a user's description, oldest first; the last one holds."""
        query = "SELECT content FROM versions WHERE user = ? ORDER BY version"
        rows = self._database.execute(query, (user,))
        return [msgspec.json.decode(text, type=Description) for (text,) in rows]

    def commit(self, user: str, read: Sequence[int], content: Description) -> int:
        """Add a version, mark the signals it has read by their numbers, and return its number.

        If one of them was read before, nothing is done, and 0 is returned.
        """
        mark = "UPDATE signals SET version = ? WHERE number = ? AND version IS NULL"
        number, text = len(self.versions(user)) + 1, msgspec.json.encode(content).decode()
        with self._database as database:
            marked = database.executemany(mark, [(number, each) for each in read]).rowcount
            if marked < len(read):
                database.rollback()
                return 0
            new = (user, number, text)
            database.execute("INSERT INTO versions VALUES (?, ?, CURRENT_TIMESTAMP, ?)", new)
        return number

    def users(self) -> list[str]:
        """All users of whom anything is kept, in alphabetical order."""
        rows = self._database.execute("SELECT DISTINCT user FROM signals ORDER BY user")
        return [user for (user,) in rows]

    def export(self, user: str) -> dict[str, Any]:
        """All that is kept of a user, as JSON-ready values; a UserError if nothing is."""
        query = "SELECT signal, added, version FROM signals WHERE user = ? ORDER BY number"
        signals = [
            msgspec.json.decode(text) | {"added": added, "version": version}
            for text, added, version in self._database.execute(query, (user,))
        ]
        if not signals:
            raise UserError(f"{self.path}: no user {user!r}; `alignxplore show` lists all users")
        query = "SELECT version, written, content FROM versions WHERE user = ? ORDER BY version"
        versions = [
            {"number": number, "written": written, "content": msgspec.json.decode(text)}
            for number, written, text in self._database.execute(query, (user,))
        ]
        return {"user": user, "signals": signals, "versions": versions}

    def forget(self, user: str) -> None:
        """Delete all that is kept of a user; a UserError if nothing is."""
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
    while rounds := {user: own for user in waiting if (own := states.pending(user, per_round))}:
        # Looked up after the signals: if another process adds a version in between, that has read
        # the oldest of them, and the one written here is refused.
        last = [states.versions(user)[-1:] for user in rounds]
        requests = [
            (known[0].description if known else None, [*pending.values()])
            for known, pending in zip(last, rounds.values(), strict=True)
        ]
        outcomes = zip(rounds.items(), describer.write(requests), strict=True)
        for (user, pending), outcome in outcomes:
            if isinstance(outcome, NotDescribedError):
                waiting.remove(user)
                yield user, 0, outcome
            elif number := states.commit(user, list(pending), outcome):
                yield user, number, outcome

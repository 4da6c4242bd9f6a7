"""What is known of each user: versions of the description, and the signals each of them has read.

An SQLite file. Signals are put down first and read later: a version and the mark on the signals
that it has read are one transaction, so that a process may die at any moment, and others may write
meanwhile, and still each signal is read once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignxplore_trl.inference.descriptions import WrittenDescription
from alignxplore_trl.run.database import open_log, told_in_words
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Signal, signal_from_dict, signal_to_dict

_WHAT = "a file of user states"
# It holds what can't be made again.
_REMEDY = "put a copy of the file back, or name another one"
_TABLES = """
CREATE TABLE IF NOT EXISTS signals (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    key BLOB NOT NULL,
    signal TEXT NOT NULL,
    added TEXT NOT NULL,
    version INTEGER,
    UNIQUE (user, key)
);
CREATE INDEX IF NOT EXISTS signals_of_versions ON signals (user, version, number);
CREATE TABLE IF NOT EXISTS versions (
    user TEXT NOT NULL,
    version INTEGER NOT NULL,
    base INTEGER,
    description TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    model TEXT NOT NULL,
    written TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    dropped_signals INTEGER NOT NULL,
    shortened_texts INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    undone TEXT,
    PRIMARY KEY (user, version)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Version:
    """One version of a user's description.

    Attributes:
        user: whose it is.
        number: counted from 1 for each user; no number is given twice.
        base: the version that it was updated from; `None` for a first one.
        content: what was written.
        written: when, in UTC, in ISO 8601.
        undone: when it was taken back; `None` if it wasn't.
        signals: how many it has read.
    """

    user: str
    number: int
    base: int | None
    content: WrittenDescription
    written: str
    undone: str | None
    signals: int

    @property
    def description(self) -> str:
        """What it says."""
        return self.content.description


@dataclass(frozen=True)
class PendingSignal:
    """A signal that no version has read yet; its number tells it from all others."""

    number: int
    signal: Signal


class StaleBaseError(Exception):
    """Another writer has read some of the signals, or has changed the description, in between."""


class UserStates:
    """The states of users in one file; made with its folder if there is none.

    Any number of processes and threads may use the same file; each opens it for itself.

    Args:
        path: the file.

    Raises:
        UserError: it is no such file, or can't be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._in_words():
            self._database = open_log(path)
            # What is forgotten is overwritten; what is committed survives a power cut.
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> UserStates:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(
        self, user: str, signals: Sequence[Signal], ids: Sequence[str | None] | None = None
    ) -> int:
        """Put down signals in the order in which they happened; those that are known are left.

        A signal is known by its id, or without one by its content: then the same content is the
        same signal.

        Args:
            user: who gave them.
            signals: what the user did.
            ids: of each signal, from where it comes from, if it has one.

        Returns:
            How many are new.

        Raises:
            UserError: another signal was put down under one of the ids.
        """
        names = ids if ids is not None else [None] * len(signals)
        contents = [_as_text(signal) for signal in signals]
        keys = [
            _key_of(content if name is None else f"id {name}")
            for content, name in zip(contents, names, strict=True)
        ]
        now = _now()
        added = 0
        with self._transaction() as database:
            for content, name, key in zip(contents, names, keys, strict=True):
                row = (user, key, content, now)
                fresh = database.execute(
                    "INSERT INTO signals (user, key, signal, added) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT DO NOTHING",
                    row,
                ).rowcount
                added += fresh
                if not fresh and name is not None:
                    self._check_same(database, user, key, content, name)
        return added

    def pending(self, user: str, most: int | None = None) -> list[PendingSignal]:
        """The signals that no version has read, oldest first, at most so many."""
        with self._in_words():
            rows = self._database.execute(
                "SELECT number, signal FROM signals WHERE user = ? AND version IS NULL "
                "ORDER BY number LIMIT ?",
                (user, -1 if most is None else most),
            ).fetchall()
        return [PendingSignal(number, _from_text(text)) for number, text in rows]

    def current(self, user: str) -> Version | None:
        """The description that holds now; `None` if there is none."""
        versions = [each for each in self.history(user) if each.undone is None]
        return versions[-1] if versions else None

    def history(self, user: str) -> list[Version]:
        """All versions, oldest first, those that were undone included."""
        columns = ", ".join(f"v.{name}" for name in WrittenDescription.__dataclass_fields__)
        with self._in_words():
            rows = self._database.execute(
                f"SELECT v.version, v.base, v.written, v.undone, COUNT(s.number), {columns} "
                "FROM versions v LEFT JOIN signals s ON s.user = v.user AND s.version = v.version "
                "WHERE v.user = ? GROUP BY v.version ORDER BY v.version",
                (user,),
            ).fetchall()
        return [
            Version(user, number, base, WrittenDescription(*content), written, undone, signals)
            for number, base, written, undone, signals, *content in rows
        ]

    def signals_of(self, user: str, version: int) -> list[Signal]:
        """What a version has read, in the order in which it happened."""
        with self._in_words():
            rows = self._database.execute(
                "SELECT signal FROM signals WHERE user = ? AND version = ? ORDER BY number",
                (user, version),
            ).fetchall()
        return [_from_text(text) for (text,) in rows]

    def commit(
        self,
        user: str,
        base: Version | None,
        read: Sequence[PendingSignal],
        content: WrittenDescription,
    ) -> Version:
        """Add a version, and mark the signals that it has read: both, or nothing.

        Args:
            user: whose it is.
            base: the version that was current when the model was asked.
            read: the pending signals that it was asked with.
            content: what it wrote.

        Raises:
            StaleBaseError: another version is current by now, or one of the signals has been read.
        """
        values = asdict(content)
        now = _now()
        with self._transaction() as database:
            if self._current_number(database, user) != (None if base is None else base.number):
                raise StaleBaseError(user)
            number = 1 + database.execute(
                "SELECT COALESCE(MAX(version), 0) FROM versions WHERE user = ?", (user,)
            ).fetchone()[0]  # fmt: skip
            columns = ", ".join(values)
            marks = ", ".join("?" * len(values))
            database.execute(
                f"INSERT INTO versions (user, version, base, written, {columns}) "
                f"VALUES (?, ?, ?, ?, {marks})",
                (user, number, None if base is None else base.number, now, *values.values()),
            )
            for each in read:
                marked = database.execute(
                    "UPDATE signals SET version = ? "
                    "WHERE number = ? AND user = ? AND version IS NULL",
                    (number, each.number, user),
                ).rowcount
                if not marked:
                    raise StaleBaseError(user)
        return Version(
            user, number, None if base is None else base.number, content, now, None, len(read)
        )

    def undo(self, user: str, *, read_again: bool = False) -> Version | None:
        """Take the current version back, so that the one that it was made from holds again.

        Args:
            user: whose it is.
            read_again: its signals are pending again; else they stay read, and are left out of all
                that follows.

        Returns:
            The version that holds now, `None` where there is none.

        Raises:
            UserError: there is nothing to undo.
        """
        with self._transaction() as database:
            number = self._current_number(database, user)
            if number is None:
                raise UserError(f"{self.path}: {user} has no description that could be undone")
            database.execute(
                "UPDATE versions SET undone = ? WHERE user = ? AND version = ?",
                (_now(), user, number),
            )
            if read_again:
                database.execute(
                    "UPDATE signals SET version = NULL WHERE user = ? AND version = ?",
                    (user, number),
                )
        return self.current(user)

    def users(self) -> list[str]:
        """All users of whom anything is kept, in alphabetical order."""
        with self._in_words():
            rows = self._database.execute(
                "SELECT user FROM signals UNION SELECT user FROM versions ORDER BY user"
            ).fetchall()
        return [user for (user,) in rows]

    def export(self, user: str) -> dict[str, Any]:
        """All that is kept of a user, as JSON-ready values.

        Raises:
            UserError: nothing is kept of them.
        """
        with self._in_words():
            rows = self._database.execute(
                "SELECT signal, added, version FROM signals WHERE user = ? ORDER BY number",
                (user,),
            ).fetchall()
        versions = self.history(user)
        if not rows and not versions:
            raise self._unknown(user)
        return {
            "user": user,
            "signals": [
                {**json.loads(text), "added": added, "version": version}
                for text, added, version in rows
            ],
            "versions": [
                {
                    "version": each.number,
                    "base": each.base,
                    "written": each.written,
                    "undone": each.undone,
                    **asdict(each.content),
                }
                for each in versions
            ],
        }

    def forget(self, user: str) -> None:
        """Delete all that is kept of a user, from the file and from its write-ahead log.

        Raises:
            UserError: nothing is kept of them.
        """
        with self._transaction() as database:
            deleted = sum(
                database.execute(f"DELETE FROM {table} WHERE user = ?", (user,)).rowcount
                for table in ("signals", "versions")
            )
        if not deleted:
            raise self._unknown(user)
        with self._in_words():
            (busy, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UserError(
                f"{self.path}: {user} is forgotten, but another process reads the file, and its "
                "write-ahead log keeps what was deleted until that one ends and the file is opened "
                "once more"
            )

    def _current_number(self, database: sqlite3.Connection, user: str) -> int | None:
        row: tuple[int | None] = database.execute(
            "SELECT MAX(version) FROM versions WHERE user = ? AND undone IS NULL", (user,)
        ).fetchone()
        return row[0]

    def _check_same(
        self, database: sqlite3.Connection, user: str, key: bytes, content: str, name: str
    ) -> None:
        (known,) = database.execute(
            "SELECT signal FROM signals WHERE user = ? AND key = ?", (user, key)
        ).fetchone()
        if known != content:
            raise UserError(
                f"{self.path}: {user}: another signal was put down under the id {name!r}; give "
                "each signal an id of its own, or none"
            )

    def _unknown(self, user: str) -> UserError:
        return UserError(f"{self.path}: found no user {user!r}; alignxplore show lists all users")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written within it is written as a whole, or not at all; others wait."""
        with self._in_words():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        with told_in_words(self.path, _WHAT, _REMEDY):
            yield


def _as_text(signal: Signal) -> str:
    return json.dumps(signal_to_dict(signal), sort_keys=True, ensure_ascii=False)


def _from_text(text: str) -> Signal:
    return signal_from_dict(json.loads(text))


def _key_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

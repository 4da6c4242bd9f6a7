"""SQLite files that several processes use, and whose troubles are told in words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignxplore_trl.run.errors import UserError

# Seconds to wait for another process that writes.
PATIENCE = 60.0
_AT_ONCE = 500


def open_log(path: Path) -> sqlite3.Connection:
    """A database, made with its folder if there is none, for entries that are kept as they arrive.

    It has a write-ahead log: a commit needn't wait for the disk, and the file stays whole. A killed
    process loses nothing; a machine that loses its power may lose the last entries.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(
        path, timeout=PATIENCE, check_same_thread=False, isolation_level=None
    )
    _keep_a_write_ahead_log(database)
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def select_keys(
    database: sqlite3.Connection, query: str, keys: Sequence[bytes]
) -> list[tuple[Any, ...]]:
    """The rows of some keys; the query ends in `WHERE key IN`."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        found += database.execute(f"{query} ({marks})", some).fetchall()
    return found


@contextmanager
def told_in_words(
    path: Path, what: str, remedy: str = "delete it, and it is made again"
) -> Iterator[None]:
    """Turn SQLite's errors, and values that an entry can't have, into a `UserError`.

    Args:
        path: the file.
        what: what it holds, such as "the cache of log-probabilities".
        remedy: what helps where the file is damaged.

    Raises:
        UserError: busy for too long, no room, no access; or the file is damaged, or another one.
    """
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        # The file itself may be whole.
        raise UserError(
            f"{path}: {what}: {error}; see that it can be written to, or name another file"
        ) from error
    except (sqlite3.DatabaseError, ValueError) as error:
        raise UserError(f"{path}: damaged, or not {what} ({error}); {remedy}") from error


def _keep_a_write_ahead_log(database: sqlite3.Connection) -> None:
    """Turn it on, or find that it is; SQLite doesn't wait here for others that do the same."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return

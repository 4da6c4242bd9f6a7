"""SQLite files whose troubles are told in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignxplore_trl.run.errors import UserError


@contextmanager
def told_in_words(path: Path, what: str) -> Iterator[None]:
    """Turn SQLite's errors, and values that an entry can't have, into a `UserError`.

    Args:
        path: the file.
        what: what it holds, such as "the cache of log-probabilities".

    Raises:
        UserError: busy for too long, no room, no access; or the file is damaged, or another one.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # The file itself may be whole.
        raise UserError(
            f"{path}: {what}: {error}; see that it can be written to, or name another file"
        ) from error
    except (sqlite3.DatabaseError, ValueError) as error:
        raise UserError(
            f"{path}: damaged, or not {what} ({error}); delete it, and it is made again"
        ) from error

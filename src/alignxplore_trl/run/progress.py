"""What people read while they wait."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from alignxplore_trl.run.errors import is_main_process

T = TypeVar("T")


def say(line: str) -> None:
    """Write one line on stderr, from the first of several processes."""
    if is_main_process():
        sys.stderr.write(f"{line}\n")


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Yield the items behind a bar; in a log file, a line every quarter of a minute."""
    interval = 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(items, desc=what, total=total, mininterval=interval, disable=not is_main_process())

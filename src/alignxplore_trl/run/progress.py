"""Progress for people: bars on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from alignxplore_trl.run.folder import is_main_process

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0


def shows_bars() -> bool:
    """Whether stderr is a terminal, where a bar can redraw itself."""
    return sys.stderr.isatty()


def say(line: str) -> None:
    """One line on stderr, from the first of several processes."""
    if is_main_process():
        sys.stderr.write(f"{line}\n")


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items, telling stderr how far it is; in one process of several.

    Args:
        items: what is worked through.
        what: what is being done, for the person who waits.
        total: how many items there are.
    """
    if not is_main_process():
        yield from items
    elif shows_bars():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total)
    else:
        yield from _with_lines(items, what, total)


def _with_lines(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    started = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES:
            told = now
            sys.stderr.write(f"{what}: {done}/{total}, {now - started:.0f} s\n")
        yield item
    sys.stderr.write(f"{what}: {total}/{total}, {time.monotonic() - started:.0f} s\n")

"""Progress for people: bars on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

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
    with Bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance(1)


class Bar:
    """How far some work is, with rate and time left: a bar on a terminal, lines in a log file.

    Args:
        what: what is being done, for the person who waits.
        total: how much there is to do.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self._done = 0
        self._details = ""
        self._started = self._told = time.monotonic()
        self._told_the_end = False
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if is_main_process() and shows_bars():
            from tqdm import tqdm

            self._bar = tqdm(desc=self.what, total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif is_main_process() and not self._told_the_end:
            self._tell()

    def advance(self, count: int, details: str = "") -> None:
        """More of it is done.

        Args:
            count: how much more.
            details: what else there is to say now.
        """
        self._done += count
        self._details = details
        if self._bar is not None:
            self._bar.set_postfix_str(details, refresh=False)
            self._bar.update(count)
        elif is_main_process() and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._told_the_end = self._done == self.total
        seconds = self._told - self._started
        line = f"{self.what}: {self._done}/{self.total}, {seconds:.0f} s"
        if 0 < self._done < self.total:
            left = seconds * (self.total - self._done) / self._done
            line += f", {self._done / seconds:.3g}/s, {left:.0f} s left"
        sys.stderr.write(f"{line}, {self._details}\n" if self._details else f"{line}\n")

"""Mistakes that a person can mend: reported together, in words, with exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class UserError(Exception):
    """One or more mistakes in a configuration, a file or a row.

    Each problem is one line that says where it is, what was found, what was expected and how to
    mend it. Entry points print the problems and exit with status 2; no traceback.
    """

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StoppedBySignalError(Exception):
    """A run was told to stop, and has saved what the same command goes on from.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by signal {number}")


@dataclass
class Problems:
    """Collects problems, so that all of them are reported at once."""

    found: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def raise_if_any(self) -> None:
        if self.found:
            raise UserError(self.found)


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` into lines on stderr, from the first process, and exit status 2."""
    try:
        yield
    except UserError as error:
        if int(os.environ.get("RANK", "0")):
            raise SystemExit(2) from None
        count = len(error.problems)
        sys.stderr.write(
            f"{count} problem{'s' if count > 1 else ''} to mend before this can run:\n"
        )
        for problem in error.problems:
            sys.stderr.write(f"  - {problem}\n")
        raise SystemExit(2) from None

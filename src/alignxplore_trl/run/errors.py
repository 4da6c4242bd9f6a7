"""Mistakes that a person can mend: reported together, in words, with exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """One or more mistakes in a configuration, a file or a row.

    Each problem is one line: where it is, what was found, what was expected, how to mend it.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StoppedBySignalError(Exception):
    """A run was told to stop, and has saved what the same command goes on from."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by signal {number}; the same command resumes")


def nearest(name: object, candidates: Iterable[object]) -> str:
    """`; did you mean …?`, or nothing where no candidate is near."""
    close = get_close_matches(str(name), [str(each) for each in candidates], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def is_main_process() -> bool:
    """Whether this is the first of the processes that accelerate started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` into lines on stderr and exit status 2, on every process that has one."""
    try:
        yield
    except UserError as error:
        rank = os.environ.get("RANK")
        where = f" (process {rank})" if rank not in (None, "0") else ""
        sys.stderr.write("".join(f"error{where}: {problem}\n" for problem in error.problems))
        raise SystemExit(2) from None
    except StoppedBySignalError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(128 + error.number) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None

"""Recipes that run other recipes do it as a person would: through make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from alignxplore_trl.run.errors import UserError


class MakeError(UserError):
    """A make command that ended with an error."""


def make(arguments: Sequence[str], log: Path | None = None) -> None:
    """Run a make command; where its run is finished, it says so and does nothing.

    Args:
        arguments: the words behind `make`.
        log: a file that takes what the command writes, behind what it holds; `None`: the screen.

    Raises:
        MakeError: it ended with an error, which it has told itself.
    """
    # Under make, its own variables and flags would reach this one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    if log is None:
        status = subprocess.run(command, env=own).returncode
    else:
        with log.open("ab") as file:
            status = subprocess.run(command, env=own, stdout=file, stderr=file).returncode
    if status:
        told = "above" if log is None else f"in {log}"
        raise MakeError(f"make {' '.join(arguments)}: ended with an error, told {told}")

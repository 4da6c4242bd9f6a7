"""Recipes that run other recipes do it as a person would: through make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from alignxplore_trl.run.errors import UserError


def make(arguments: Sequence[str]) -> None:
    """Run a make command; where its run is finished, it says so and does nothing.

    Raises:
        UserError: it ended with an error, which it has told itself.
    """
    # Under make, its own variables and flags would reach this one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if subprocess.run(["make", *arguments], env=own).returncode:
        raise UserError(f"make {' '.join(arguments)}: ended with an error, told above")

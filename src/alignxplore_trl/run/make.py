"""Recipes that start other recipes do it as a person would: through make."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Overrides that make itself has to know.
_VARIABLES = {"scale": "SCALE", "rl.start": "START"}
_REASON = re.compile(
    r"^(?:\[\w+\]: ?)?(error.*?: .+|(?:\w+\.)*\w*(?:Error|Exception)(?:: .+)?)$", re.M
)


class MakeError(Exception):
    """A make command that ended with an error; says why, where its output says so."""


def make(
    targets: Sequence[str],
    overrides: Sequence[str],
    variables: Sequence[str] = (),
    log: Path | None = None,
) -> None:
    """Run `make <targets>` with Hydra overrides; what is finished says so and does nothing.

    Args:
        overrides: of Hydra, one a word; the last of several for one key holds.
        variables: of make, such as `LAUNCH=zero3`; those without a value aren't passed.
        log: takes what the command writes; `None`: the screen.

    Raises:
        MakeError: it ended with an error.
    """
    given = [each for each in variables if each.partition("=")[2]]
    known = dict(each.split("=", 1) for each in overrides if "=" in each)
    # Make quotes its variables by itself.
    given += [
        f"{name}={known[key].strip(chr(34))}" for key, name in _VARIABLES.items() if key in known
    ]
    arguments = shlex.join(overrides).replace("$", "$$")
    command = ["make", *targets, *given, f"ARGS={arguments}"]
    # Under make, its own variables and flags would reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if log is None:
        status, said = subprocess.run(command, env=environment).returncode, ""
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
        said = log.read_text("utf-8", errors="replace")
    if status:
        reasons = _REASON.findall(said)
        raise MakeError(reasons[-1] if reasons else f"make ended with status {status}")

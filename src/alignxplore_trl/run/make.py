"""Recipes that start other recipes do it as a person would: through make."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.run.errors import UserError

# Overrides that make itself has to know.
_VARIABLES = {"scale": "SCALE", "rl.start": "START"}
_REASON = re.compile(
    r"^(?:\[\w+\]: ?)?(error.*?: .+|(?:\w+\.)*\w*(?:Error|Exception)(?:: .+)?)$", re.M
)


def told(*own: str) -> list[str]:
    """This command's overrides, but for those of its own sections: what it tells other recipes."""
    words = HydraConfig.get().overrides
    found = [word for word in words.hydra if word.startswith("hydra.searchpath")]
    return found + [w for w in words.task if re.split("[.=]", w.lstrip("+"))[0] not in own]


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
        UserError: it ended with an error; says why, where the log does.
    """
    given = [each for each in variables if each.partition("=")[2]]
    known = dict(each.split("=", 1) for each in overrides if "=" in each)
    # Make quotes its variables by itself.
    given += [
        f"{_VARIABLES[key]}={known[key].strip(chr(34))}" for key in _VARIABLES if key in known
    ]
    command = ["make", *targets, *given, f"ARGS={shlex.join(overrides).replace('$', '$$')}"]
    # Under make, its own variables and flags would reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    with log.open("wb") if log else nullcontext() as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if status:
        reasons = _REASON.findall(log.read_text("utf-8", errors="replace")) if log else []
        ended = f"make {' '.join(targets)}: ended with status {status}; the same command goes on"
        raise UserError(reasons[-1] if reasons else ended)

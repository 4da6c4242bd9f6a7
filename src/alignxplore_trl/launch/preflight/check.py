"""What one check of a preflight says: a line, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignxplore_trl.launch.config import (
    CheckName,
    ColdStartConfig,
    EvaluateConfig,
    RLConfig,
    SynthesizeConfig,
)

State = Literal["PASS", "FAIL", "SKIP"]
TrainingConfig = ColdStartConfig | RLConfig
CheckedConfig = TrainingConfig | SynthesizeConfig | EvaluateConfig


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the check; `configuration` for what is read before all others.
        state: SKIP where nothing can be said yet, or it was left out.
        line: what was looked at, with its numbers.
        remedy: what mends a FAIL, or makes a SKIP possible.
    """

    name: CheckName | Literal["configuration"]
    state: State
    line: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state}  {self.name:<13}  {self.told}"

    @property
    def told(self) -> str:
        """Line and remedy."""
        return f"{self.line}; {self.remedy}" if self.remedy else self.line


def passed(name: CheckName, line: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, "PASS", line)


def failed(name: CheckName, line: str, remedy: str) -> Check:
    """A check that found something wrong, and what mends it."""
    return Check(name, "FAIL", line, remedy)


def skipped(name: CheckName, line: str, remedy: str = "") -> Check:
    """A check that couldn't be made."""
    return Check(name, "SKIP", line, remedy)


def in_words(size: float) -> str:
    """Bytes in MiB or GiB, with three figures."""
    return f"{size / 2**20:.3g} MiB" if size < 2**30 else f"{size / 2**30:.3g} GiB"

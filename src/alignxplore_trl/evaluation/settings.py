"""The settings in which methods are compared: how much history, in how many rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase

_NAME = re.compile(r"base([1-9]\d*)|streaming([1-9]\d*(?:\+[1-9]\d*)+)")


@dataclass(frozen=True)
class Setting:
    """How a user's history is read: all at once (base), or in rounds of equal size (streaming)."""

    per_round: int
    rounds: int = 1

    @classmethod
    def from_name(cls, name: str) -> Setting:
        """Read a name such as `base8` or `streaming4+4`.

        Raises:
            UserError: the name is not of that form, or its rounds differ in size.
        """
        match = _NAME.fullmatch(name)
        sizes = (match[1] or match[2]).split("+") if match else []
        if len(set(sizes)) != 1:
            raise UserError(
                f"setting: {name!r} found, expected base<signals>, such as base8, or "
                "streaming<signals>+<signals>, such as streaming4+4, with rounds of one size"
            )
        return cls(int(sizes[0]), len(sizes))

    @property
    def name(self) -> str:
        """The setting's name in `summary.json` and in tables."""
        sizes = "+".join([str(self.per_round)] * self.rounds)
        return f"base{sizes}" if self.rounds == 1 else f"streaming{sizes}"

    @property
    def signals(self) -> int:
        """How many signals of a user the setting reads altogether."""
        return self.per_round * self.rounds

    @property
    def after_each_round(self) -> list[Setting]:
        """The settings that its rounds lead through, itself the last; the first is a base one."""
        return [Setting(self.per_round, rounds) for rounds in range(1, self.rounds + 1)]

    def history(self, cases: Sequence[PreferenceCase]) -> list[PreferenceCase]:
        """The cases with enough signals, each cut to the signals this setting reads.

        A case with too few is left out, not read with fewer: the caller compares the counts.
        """
        return [
            replace(case, signals=case.signals[: self.signals])
            for case in cases
            if len(case.signals) >= self.signals
        ]

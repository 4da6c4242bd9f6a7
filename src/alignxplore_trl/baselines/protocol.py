"""What every compared method is asked, and what it says: a description of a user, or a decision."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from alignxplore_trl.cases import Case
from alignxplore_trl.run.errors import UserError

Reading = Literal["nothing", "at_once", "in_rounds"]


@dataclass(frozen=True)
class Setting:
    """How much of a user's history is read: all at once (base), or in rounds of equal size."""

    per_round: int
    rounds: int = 1

    @classmethod
    def from_name(cls, name: str) -> Setting:
        """Read a name such as `base8` or `streaming4+4`; a UserError if it is of neither form."""
        match = re.fullmatch(r"base([1-9]\d*)|streaming([1-9]\d*)((?:\+\2)+)", name)
        if not match:
            raise UserError(
                f"evaluation.settings: {name!r} found, expected base<signals>, such as base8, or "
                "streaming<signals>+<signals>, such as streaming4+4, with rounds of one size"
            )
        return cls(int(match[1] or match[2]), 1 + (match[3] or "").count("+"))

    @property
    def name(self) -> str:
        """Its name in results."""
        kind = "base" if self.rounds == 1 else "streaming"
        return kind + "+".join([str(self.per_round)] * self.rounds)


@dataclass(frozen=True)
class Said:
    """What a method says of the user of one case, after a `round` (0: the last one).

    Attributes:
        description: what judges read; `None` asks them without one, if there is no `problem`.
        problem: why the completion is no inference; such a completion scores 0.
        decided: whether the method picks a reply by itself, with this `probability` of the right
            one (a half is a tie, `None` no decision); no judge is asked then.
        earlier: the description that was updated; it, and all below, are of this round.
        seconds: a case's share of the time in which all were written.
    """

    case_id: str
    round: int = 0
    description: str | None = None
    problem: str | None = None
    decided: bool = False
    probability: float | None = None
    reasoning: str | None = None
    earlier: str | None = None
    completion: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    dropped_signals: int | None = None
    shortened_texts: int | None = None


@dataclass(frozen=True)
class Asked:
    """Cases, cut to the signals that are read, and in which rounds these are read.

    `others` is what the method named by `of` said of the cases in the end.
    """

    cases: Sequence[Case]
    setting: Setting
    others: Sequence[Said] = ()


class Method(ABC):
    """A method that is compared: a class with settings only, and a file in conf/method.

    Attributes:
        reading: what it is shown of a history. `nothing`: it is tried once, in the setting `any`;
            `at_once`: a setting's signals in one round; `in_rounds`: as the setting says.
        of: the name of another method whose descriptions it is given.
        model: folder of its weights, if it has any.
        made_by: the command that makes this folder, without which the method is left out.
    """

    reading: ClassVar[Reading] = "at_once"
    of: str | None = None
    model: str | None
    made_by: str | None = None

    def missing(self) -> str | None:
        """What has to be made before it can be tried, in words; `None` if there is nothing."""
        if not self.made_by or (Path(str(self.model)).parent / "summary.json").is_file():
            return None
        return f"{self.model} isn't there; {self.made_by} makes it"

    @abstractmethod
    def describe(self, asked: Asked) -> list[Said]:
        """What it says of each case; one that it can say nothing of, for now, is left out."""

    def close(self) -> None:
        """Give the memory of its models back."""
        return

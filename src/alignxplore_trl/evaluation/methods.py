"""What the evaluation asks of every method: what it says of users, in a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.longer_reply import LongerReply
from alignxplore_trl.baselines.null import Null
from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.baselines.signals import Signals
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase

Entries = Sequence[UserDescription | Decision]
# Before the name of a method whose descriptions were given to other users.
ANOTHER_USERS = "another_users_"


class MethodSetting(NamedTuple):
    """One row of a results table: a method and the setting it is tried in."""

    method: str
    setting: str

    @classmethod
    def read(cls, text: str) -> MethodSetting:
        """Read `method/setting`, such as `golden/base4`.

        Raises:
            UserError: it is not of that form.
        """
        method, _, setting = text.strip().partition("/")
        if not method or not setting or "/" in setting:
            raise UserError(f"{text!r} found, expected <method>/<setting>, such as golden/base4")
        return cls(method, Setting.from_name(setting).name)


Comparison = tuple[MethodSetting, MethodSetting]


def read_comparison(text: str) -> Comparison:
    """Read two methods to compare, `method/setting - method/setting`.

    Raises:
        UserError: it is not of that form.
    """
    sides = text.split(" - ")
    if len(sides) != 2:
        raise UserError(
            f"{text!r} found, expected two methods in their settings, written "
            "'<method>/<setting> - <method>/<setting>'"
        )
    return MethodSetting.read(sides[0]), MethodSetting.read(sides[1])


class Method(Protocol):
    """A method that is compared with others.

    It is given all cases at once, because models describe in batches. It may read a case's signals
    only; `golden`, which tells what a perfect description is worth, is the exception. A case that
    it can't describe at all is left out.
    """

    @property
    def name(self) -> str:
        """In results."""
        ...

    def describe_in(
        self, setting: Setting, cases: Sequence[PreferenceCase]
    ) -> Mapping[Setting, Entries]:
        """What it says of each case at the end of the setting, and perhaps of shorter ones before.

        Args:
            setting: how many signals are read, in how many rounds.
            cases: cut to the signals that the setting reads.
        """
        ...


@dataclass(frozen=True)
class AllAtOnce:
    """A method that reads a case's signals all at once, in whatever rounds they came."""

    name: str
    say: Callable[[Sequence[PreferenceCase]], Entries]

    def describe_in(
        self, setting: Setting, cases: Sequence[PreferenceCase]
    ) -> Mapping[Setting, Entries]:
        """See `Method`."""
        return {setting: self.say(cases)}


# Methods that need no model of their own, by name.
WITHOUT_MODEL: Mapping[str, Method] = {
    each.name: each
    for each in (
        AllAtOnce("null", Null().describe),
        AllAtOnce("signals", Signals().describe),
        AllAtOnce("golden", Golden().describe),
        AllAtOnce("longer_reply", LongerReply().decide),
    )
}
# Of all methods, those that judge by themselves.
DECIDING = ("longer_reply", "vpl")
# Those that prompt the language model of the configuration.
PROMPTING = ("prompted_concise", "prompted_reasoning", "lm_induct_reason")
# Those that read all signals at once, and so are tried in base settings only.
ONE_READING = ("lm_induct_reason", "pba", "vpl")
# Language models as they come.
UNTRAINED = ("backbone", "teacher")

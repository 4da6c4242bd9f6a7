"""What a user did, and the case that tests whether a description of that user is any good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Comparison:
    """The user saw two replies to a post, chose one and rejected the other.

    Or, with the form `items`, two things in a list, such as articles or films, of which the user
    chose one and passed over the other: `post` then says what kind of list it was, the same words
    for all such lists, and the other two are what was shown of each thing.
    """

    post: str
    chosen: str
    rejected: str
    form: Literal["replies", "items"] = "replies"
    kind: Literal["comparison"] = "comparison"

    def reversed(self) -> Comparison:
        """The same two, with the other one chosen."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def shows_pair_of(self, other: Comparison) -> bool:
        """Whether both show the same two for the same post, whichever was chosen."""
        return self.post == other.post and {self.chosen, self.rejected} == {
            other.chosen,
            other.rejected,
        }


@dataclass(frozen=True)
class Post:
    """Text the user wrote: a comment under a post (user-generated content)."""

    post: str
    comment: str
    kind: Literal["post"] = "post"


@dataclass(frozen=True)
class Attributes:
    """What the user said about themself, as free text."""

    text: str
    kind: Literal["attributes"] = "attributes"


Signal = Comparison | Post | Attributes
_SIGNAL_TYPES: Mapping[str, type[Comparison] | type[Post] | type[Attributes]] = {
    "comparison": Comparison,
    "post": Post,
    "attributes": Attributes,
}


@dataclass(frozen=True)
class PreferenceCase:
    """One test of a description: signals of a user, and a pair of replies the user also judged.

    `signals` are in the order in which they happened and never contain `target`. `directions` maps
    the name of a dimension to the pole that the user prefers, and `description` is the true
    preference in words; both are `None` where the source does not know them. `cluster` names what
    makes cases dependent on each other (intervals are clustered by it); it is the user by default.
    """

    case_id: str
    user_id: str
    signals: tuple[Signal, ...]
    target: Comparison
    directions: Mapping[str, str] | None = None
    description: str | None = None
    cluster: str = field(default="")

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.user_id)


def signal_to_dict(signal: Signal) -> dict[str, str]:
    """A signal as plain strings, for a dataset column or a file."""
    return asdict(signal)


def signal_from_dict(row: Mapping[str, Any]) -> Signal:
    """The inverse of `signal_to_dict`; keys that hold `None` (as Arrow fills them in) are ignored.

    Raises:
        KeyError: the row's `kind` is not one of comparison, post, attributes.
    """
    values = {key: value for key, value in row.items() if value is not None}
    return _SIGNAL_TYPES[values["kind"]](**values)


def case_to_dict(case: PreferenceCase) -> dict[str, Any]:
    """A case as JSON-ready values, the inverse of `case_from_dict`."""
    row = asdict(case)
    row["signals"] = [signal_to_dict(signal) for signal in case.signals]
    row["directions"] = None if case.directions is None else dict(case.directions)
    return row


def case_from_dict(row: Mapping[str, Any]) -> PreferenceCase:
    """Build a case from what `case_to_dict` wrote."""
    target = signal_from_dict(row["target"])
    assert isinstance(target, Comparison)
    return PreferenceCase(
        case_id=row["case_id"],
        user_id=row["user_id"],
        signals=tuple(signal_from_dict(signal) for signal in row["signals"]),
        target=target,
        directions=row["directions"],
        description=row["description"],
        cluster=row["cluster"],
    )


def rounds_of_signals(
    case: PreferenceCase, per_round: int, rounds: int
) -> list[tuple[Signal, ...]]:
    """Split a case's signals into as many whole rounds as it has, at most `rounds`.

    The base setting is one round. A case with too few signals for a round simply has fewer rounds:
    the caller counts them. Signals beyond the last asked round are not used.
    """
    available = min(rounds, len(case.signals) // per_round)
    return [case.signals[i * per_round : (i + 1) * per_round] for i in range(available)]


def posts_of(signals: Iterable[Signal]) -> list[str]:
    """The post texts among signals, for checks that splits share none.

    Attributes have none, and that of two items says nothing but what kind of list they stood in.
    """
    return [
        signal.post
        for signal in signals
        if isinstance(signal, Post) or (isinstance(signal, Comparison) and signal.form == "replies")
    ]

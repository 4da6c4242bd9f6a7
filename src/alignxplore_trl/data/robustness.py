"""Robustness sets: what a method says of users whose signals are turned round, or partly wrong.

Source: METHOD 5. A signal is reversed by exchanging the chosen and the rejected reply: the user it
shows is one who would have picked the other. That can be done to comparisons only.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison, PreferenceCase, Signal

_NAME = re.compile(
    r"(?P<plain>reversed|one_reversed|shuffled)|drift(?P<count>\d+)|noise(?P<rate>0(\.\d+)?|1(\.0+)?)"
)
FORMS = "reversed, drift<k> (drift3), one_reversed, shuffled, noise<rate> (noise0.2)"


@dataclass(frozen=True)
class Reversed:
    """Every signal and the target: the user with the opposite directions."""


@dataclass(frozen=True)
class Drift:
    """The first `count` signals; later ones and the target are as they were."""

    count: int


@dataclass(frozen=True)
class OneReversed:
    """One signal, drawn for each case."""


@dataclass(frozen=True)
class Shuffled:
    """No signal; they stand in an order drawn for each case."""


@dataclass(frozen=True)
class Noise:
    """Each signal by itself, with probability `rate`."""

    rate: float


Variation = Reversed | Drift | OneReversed | Shuffled | Noise


@dataclass(frozen=True)
class VariedCase:
    """A case after a variation, and exactly what was done to it.

    Attributes:
        case: with the `case_id` of the original. Where the target is reversed, `directions` and
            `description` are those of the opposite user, or `None` where they aren't known.
        order: where each signal stood in the original.
        reversed_signals: positions in the original of the signals that were reversed, ascending.
        target_reversed: whether the target pair was.
    """

    case: PreferenceCase
    order: tuple[int, ...]
    reversed_signals: tuple[int, ...]
    target_reversed: bool

    def row(self) -> dict[str, Any]:
        """What was done, as plain values for a file."""
        return {
            "case_id": self.case.case_id,
            "order": list(self.order),
            "reversed_signals": list(self.reversed_signals),
            "target_reversed": self.target_reversed,
        }


def read_variation(name: str) -> Variation:
    """Read a name such as `reversed`, `drift3`, `one_reversed`, `shuffled` or `noise0.2`.

    Raises:
        UserError: the name is not of one of these forms.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} found, expected one of {FORMS}")
    if match["count"] is not None:
        return Drift(int(match["count"]))
    if match["rate"] is not None:
        return Noise(float(match["rate"]))
    plain: Mapping[str, Variation] = {
        "reversed": Reversed(),
        "one_reversed": OneReversed(),
        "shuffled": Shuffled(),
    }
    return plain[match["plain"]]


def vary(
    case: PreferenceCase, variation: Variation, seed: int, opposites: Mapping[str, str]
) -> VariedCase:
    """Apply a variation to all signals of a case: cut it first to those that will be read.

    What is drawn is a function of the seed, the case and its number of signals alone.

    Args:
        case: whose signals are in the order in which they happened.
        variation: what is done.
        seed: of what is drawn.
        opposites: pole -> the other pole of its dimension, for the truth about a reversed user.

    Raises:
        UserError: a signal that is to be reversed is no comparison, or there are fewer signals
            than `Drift.count`.
    """
    places = range(len(case.signals))
    draw = random.Random(f"{seed}/{case.case_id}/{len(places)}/{variation}")
    order = tuple(places)
    turned: Sequence[int] = ()
    match variation:
        case Reversed():
            turned = places
        case Drift(count):
            if count > len(places):
                raise UserError(
                    f"evaluation.robustness: drift{count} found, but of case {case.case_id} "
                    f"{len(places)} signals are read; expected at most drift{len(places)}"
                )
            turned = places[:count]
        case OneReversed():
            turned = [draw.choice(places)] if places else ()
        case Noise(rate):
            turned = [place for place in places if draw.random() < rate]
        case Shuffled():
            order = tuple(draw.sample(places, len(places)))
    signals = tuple(
        _reverse(case.signals[place], case.case_id) if place in turned else case.signals[place]
        for place in order
    )
    varied = vary_target(replace(case, signals=signals), variation, opposites)
    return VariedCase(varied, order, tuple(turned), isinstance(variation, Reversed))


def vary_target(
    case: PreferenceCase, variation: Variation, opposites: Mapping[str, str]
) -> PreferenceCase:
    """What `vary` does to the target and the truth, with the signals left as they are."""
    if not isinstance(variation, Reversed):
        return case
    target = _reverse(case.target, case.case_id)
    poles = case.directions
    if not poles or not set(poles.values()) <= opposites.keys():
        return replace(case, target=target, directions=None, description=None)
    return replace(
        case,
        target=target,
        directions={name: opposites[pole] for name, pole in poles.items()},
        description=_reverse_description(case.description, list(poles.values()), opposites),
    )


def count_variations(varied: Sequence[VariedCase]) -> dict[str, int]:
    """How much was changed, for a summary."""
    counts = Counter(
        cases=len(varied),
        cases_changed=sum(
            bool(each.reversed_signals)
            or each.target_reversed
            or each.order != tuple(sorted(each.order))
            for each in varied
        ),
        signals_reversed=sum(len(each.reversed_signals) for each in varied),
        targets_reversed=sum(each.target_reversed for each in varied),
        descriptions_unknown=sum(each.case.description is None for each in varied),
    )
    return dict(counts)


def opposites_of(poles: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Pole -> the other pole, of both poles of each dimension.

    Raises:
        ValueError: two dimensions share a pole, so that its opposite isn't clear.
    """
    opposites: dict[str, str] = {}
    for one, other in poles:
        for pole, opposite in ((one, other), (other, one)):
            if opposites.setdefault(pole, opposite) != opposite:
                raise ValueError(f"{pole!r} is the opposite of two poles")
    return opposites


def _reverse(signal: Signal, case_id: str) -> Comparison:
    if not isinstance(signal, Comparison):
        raise UserError(
            f"evaluation.robustness: case {case_id} has a signal of kind {signal.kind}, but only "
            "comparisons can be reversed; give data with comparisons alone, or choose shuffled"
        )
    return signal.reversed()


def _reverse_description(
    description: str | None, poles: Sequence[str], opposites: Mapping[str, str]
) -> str | None:
    """The description with each pole exchanged; `None` if it doesn't name every one of them."""
    if description is None:
        return None
    # The longest first: one pole may be the beginning of another.
    longest_first = sorted(poles, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    if set(pattern.findall(description)) != set(poles):
        return None
    return pattern.sub(lambda match: opposites[match[0]], description)

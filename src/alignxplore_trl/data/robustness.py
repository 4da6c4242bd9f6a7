"""Robustness sets: users whose signals are turned round, or partly wrong (METHOD, section 5).

A signal is reversed by exchanging the chosen and the rejected reply: the user it shows is one who
would have picked the other. That can be done to comparisons only.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.splits import with_signals
from alignxplore_trl.run.errors import UserError

_NAME = re.compile(
    r"reversed|one_reversed|shuffled|drift(?P<count>\d+)|noise(?P<rate>0(\.\d+)?|1(\.0+)?)"
)
FORMS = "reversed, drift<k> (drift3), one_reversed, shuffled, noise<rate> (noise0.2)"


@dataclass(frozen=True)
class VariedCase:
    """A case after a variation, and exactly what was done to it.

    Attributes:
        case: with the `case_id` of the original. Where the target is reversed, `directions` and
            `description` are those of the opposite user, or `None` where they aren't known.
        order: where each signal stood in the original.
        reversed_signals: positions in the original of the signals that were reversed, ascending.
    """

    case: Case
    order: tuple[int, ...]
    reversed_signals: tuple[int, ...]


def check_variation(name: str) -> None:
    """Refuse a name that is not of one of the forms of this module.

    Raises:
        UserError: with the forms.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} found, expected one of {FORMS}")


def vary(case: Case, variation: str, seed: int, opposites: Mapping[str, str]) -> VariedCase:
    """Apply a variation to all signals of a case: cut it first to those that will be read.

    What is drawn is a function of the seed, the case, its number of signals and the variation.

    Args:
        case: whose signals are in the order in which they happened.
        variation: `reversed` (every signal and the target), `drift<k>` (the first k signals),
            `one_reversed` (one drawn for each case), `noise<rate>` (each by itself with this
            probability) or `shuffled` (none; the order is drawn for each case).
        seed: of what is drawn.
        opposites: pole -> the other pole of its dimension, see `opposites_of`.

    Raises:
        UserError: another variation, a signal that is to be reversed and is no comparison, or
            fewer signals than `drift<k>` reverses.
    """
    check_variation(variation)
    places = range(len(case.signals))
    draw = random.Random(f"{seed}/{case.case_id}/{len(places)}/{variation}")
    order = draw.sample(places, len(places)) if variation == "shuffled" else list(places)
    turned = _turned(case, variation, draw)
    varied = with_signals(_reverse(case, turned), order)
    if variation == "reversed":
        varied = _of_the_opposite_user(varied, opposites)
    return VariedCase(varied, tuple(order), tuple(turned))


def opposites_of(cases: Iterable[Case]) -> dict[str, str]:
    """Pole -> the other pole, of each dimension of which the cases prefer two poles in all."""
    poles: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for name, pole in (case.directions or {}).items():
            poles[name].add(pole)
    pairs = [sorted(both) for both in poles.values() if len(both) == 2]
    found = Counter(pole for pair in pairs for pole in pair)
    # A pole of two dimensions has no opposite that is clear from the pole alone.
    clear = [pair for pair in pairs if all(found[pole] == 1 for pole in pair)]
    return {pole: other for one, two in clear for pole, other in ((one, two), (two, one))}


def _turned(case: Case, variation: str, draw: random.Random) -> Sequence[int]:
    places = range(len(case.signals))
    if variation == "reversed":
        return places
    if variation == "one_reversed":
        return [draw.choice(places)] if places else ()
    if variation.startswith("noise"):
        rate = float(variation.removeprefix("noise"))
        return [place for place in places if draw.random() < rate]
    if variation.startswith("drift"):
        count = int(variation.removeprefix("drift"))
        if count > len(places):
            raise UserError(
                f"{variation}: {len(places)} signals of case {case.case_id} are read; expected at "
                f"most drift{len(places)}"
            )
        return places[:count]
    return ()


def _reverse(case: Case, places: Sequence[int]) -> Case:
    """The case with the signals at these places turned round, and their vectors."""
    signals, vectors = list(case.signals), list(case.vectors or ())
    for place in places:
        signal = signals[place]
        if not isinstance(signal, Comparison):
            raise UserError(
                f"case {case.case_id} has a signal of kind {signal.kind}, but only comparisons can "
                "be reversed; give data with comparisons alone, or choose shuffled"
            )
        signals[place] = signal.reversed()
        if vectors:
            vectors[place] = tuple(1 - value for value in vectors[place])
    return msgspec.structs.replace(
        case, signals=tuple(signals), vectors=tuple(vectors) if vectors else case.vectors
    )


def _of_the_opposite_user(case: Case, opposites: Mapping[str, str]) -> Case:
    """The case with its target turned round, and the truth of the user who would choose so."""
    poles = case.directions or {}
    known = bool(poles) and set(poles.values()) <= opposites.keys()
    return msgspec.structs.replace(
        case,
        target=case.target.reversed(),
        directions={name: opposites[pole] for name, pole in poles.items()} if known else None,
        description=_opposite_description(case.description, poles, opposites) if known else None,
    )


def _opposite_description(
    description: str | None, poles: Mapping[str, str], opposites: Mapping[str, str]
) -> str | None:
    """The description with each pole exchanged; `None` if it doesn't name every one of them."""
    # The longest first: one pole may be the beginning of another.
    longest_first = sorted(poles.values(), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    if description is None or set(pattern.findall(description)) != set(poles.values()):
        return None
    return pattern.sub(lambda match: opposites[match[0]], description)

"""Robustness sets: users whose signals are turned round, or partly wrong (METHOD, section 5).

A signal is reversed by exchanging the chosen and the rejected reply: the user it shows is one who
would have picked the other. That can be done to comparisons only.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from msgspec.structs import replace

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.splits import with_signals
from alignxplore_trl.run.errors import UserError

_NAMES = re.compile(r"reversed|one_reversed|shuffled|drift\d+|noise(0(\.\d+)?|1(\.0+)?)")


def vary(case: Case, variation: str, seed: int, opposites: Mapping[str, str]) -> Case:
    """A case after a variation of all its signals: cut it first to those that will be read.

    Args:
        case: whose signals are in the order in which they happened.
        variation: `reversed` (every signal and the target), `drift<k>` (the first k signals),
            `one_reversed` (any one), `noise<rate>` (each with this probability) or `shuffled`.
        seed: what is drawn is a function of it, the case, its number of signals and the variation.
        opposites: see `opposites_of`; they tell the truth about a user whose target is reversed.

    Raises:
        UserError: there is no such variation, or signals aren't comparisons.
    """
    check_variation(variation)
    places = range(len(case.signals))
    draw = random.Random(f"{seed}/{case.case_id}/{len(places)}/{variation}")
    if variation == "shuffled":
        return with_signals(case, draw.sample(places, len(places)))
    if variation == "reversed":
        return _of_the_opposite_user(_reverse(case, places), opposites)
    if variation == "one_reversed":
        return _reverse(case, draw.sample(places, min(1, len(places))))
    if variation.startswith("noise"):
        rate = float(variation.removeprefix("noise"))
        return _reverse(case, [place for place in places if draw.random() < rate])
    return _reverse(case, places[: int(variation.removeprefix("drift"))])


def check_variation(name: str) -> None:
    """Raise a `UserError`, with the forms of names, for one that is of none of them."""
    if not _NAMES.fullmatch(name):
        raise UserError(
            f"{name!r} found, expected reversed, drift<k> (drift3), one_reversed, shuffled or "
            "noise<rate> (noise0.2)"
        )


def opposites_of(cases: Iterable[Case]) -> dict[str, str]:
    """Pole -> the other pole, of each dimension of which the cases prefer two poles in all."""
    poles: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for name, pole in (case.directions or {}).items():
            poles[name].add(pole)
    return dict(both for own in poles.values() if len(own) == 2 for both in permutations(own, 2))


def _reverse(case: Case, places: Sequence[int]) -> Case:
    """The case with the signals at these places turned round, and their vectors."""
    signals, vectors = list(case.signals), list(case.vectors or ())
    for place in places:
        if not isinstance(signal := signals[place], Comparison):
            raise UserError(
                f"case {case.case_id} has a signal of kind {signal.kind}, but only comparisons can "
                "be reversed; choose shuffled, or data with comparisons alone"
            )
        signals[place] = signal.reversed()
        if vectors:
            vectors[place] = tuple(1 - value for value in vectors[place])
    return replace(case, signals=tuple(signals), vectors=tuple(vectors) or None)


def _of_the_opposite_user(case: Case, opposites: Mapping[str, str]) -> Case:
    """The case with its target turned round, and the truth about it where both poles are known."""
    poles, description = case.directions or {}, case.description or ""
    if not poles or not opposites.keys() >= set(poles.values()):
        return replace(case, target=case.target.reversed(), directions=None, description=None)
    # The longest first: one pole may be the beginning of another.
    longest_first = sorted(poles.values(), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    told = set(pattern.findall(description)) == set(poles.values())
    return replace(
        case,
        target=case.target.reversed(),
        directions={name: opposites[pole] for name, pole in poles.items()},
        description=pattern.sub(lambda pole: opposites[pole[0]], description) if told else None,
    )

"""PBA: scores of a user on predefined dimensions, put into words (METHOD: methods we compare with)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose

from alignxplore_trl.baselines.protocol import Method, Said, Setting
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import compose_description
from alignxplore_trl.data.world import WORDINGS, describe
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences
from alignxplore_trl.run.progress import progress

POSITIVE = 0.6
NEGATIVE = 0.4
# Choices that are labelled in one call of the judge.
_LABELLED_AT_ONCE = 128

# An entry for each dimension: 1 speaks for the positive pole, 0 for the negative one, one half for
# neither; `None` where nothing is known.
Labels = tuple[float | None, ...]


class Pba(Method):
    """State the poles that a user's signals agree on.

    A dimension's entry is the mean over the signals' direction vectors: from 0.6 on the positive pole
    is stated, up to 0.4 the negative one. Where all are neutral, the entry farthest from one half is
    stated, and all that are equally far; where nothing at all is known, the case is left out.

    Where cases have no vectors the judge labels each comparison: it is asked which reply a user
    prefers who is described by one pole alone. A label is the mean of P(chosen | positive pole) and
    1 - P(chosen | negative pole). A comparison is labelled once, however many cases show it.

    Args:
        judge: labels where there are no vectors.
        dimensions: `name`, `positive` and `negative` of each, in the order of the vectors. `None`:
            those of the simulated world, in its wording.
    """

    def __init__(self, judge: Judge, dimensions: Sequence[Mapping[str, str]] | None = None) -> None:
        self._judge = judge
        self._compose = describe if dimensions is None else compose_description
        self._poles = (
            [tuple(poles) for poles in WORDINGS.values()]
            if dimensions is None
            else [(own["positive"], own["negative"]) for own in dimensions]
        )
        self._labels: dict[Comparison, Labels] = {}

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        self._label(
            [
                signal
                for case in cases
                if case.vectors is None
                for signal in case.signals
                if isinstance(signal, Comparison)
            ]
        )
        said = []
        for case in cases:
            entries = mean_labels(case.vectors or self._labels_of(case))
            if any(entry is not None for entry in entries):
                poles = stated_poles(entries, self._poles)
                text = self._compose(poles) if poles else None
                said.append(Said(case.case_id, description=text))
        return said

    def _labels_of(self, case: Case) -> list[Labels]:
        return [self._labels[s] for s in case.signals if isinstance(s, Comparison)]

    def _label(self, choices: Sequence[Comparison]) -> None:
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._labels]
        parts = range(0, len(new), _LABELLED_AT_ONCE)
        for start in progress(parts, "comparisons labelled for PBA", len(parts)):
            batch = new[start : start + _LABELLED_AT_ONCE]
            pairs = [
                JudgedPair("", own.post, self._compose([pole]), own.chosen, own.rejected)
                for own in batch
                for poles in self._poles
                for pole in poles
            ]
            answers = iter(preferences(self._judge, pairs, "both", seed=0))
            for choice in batch:
                self._labels[choice] = tuple(
                    _label(next(answers), next(answers)) for _ in self._poles
                )


def mean_labels(signals: Sequence[Labels]) -> Labels:
    """The mean of each dimension over the signals that have a label there."""
    return tuple(
        sum(known) / len(known) if (known := [own for own in entries if own is not None]) else None
        for entries in zip(*signals, strict=True)
    )


def stated_poles(entries: Labels, poles: Sequence[tuple[str, ...]]) -> list[str]:
    """The poles that the entries speak for, in the order of the dimensions."""
    known = [(e, own) for e, own in zip(entries, poles, strict=True) if e is not None]
    stated = [(e, own) for e, own in known if e >= POSITIVE or e <= NEGATIVE]
    if not stated:
        farthest = max((abs(e - 0.5) for e, _ in known), default=0.0)
        stated = [(e, own) for e, own in known if e != 0.5 and isclose(abs(e - 0.5), farthest)]
    return [own[0] if e > 0.5 else own[1] for e, own in stated]


def _label(of_positive: float | None, of_negative: float | None) -> float | None:
    if of_positive is None or of_negative is None:
        return None
    return (of_positive + 1.0 - of_negative) / 2

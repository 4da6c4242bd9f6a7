"""PBA: scores of a user on predefined dimensions, in words (METHOD: methods we compare with)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isclose

from alignxplore_trl.baselines.protocol import Asked, Method, Said
from alignxplore_trl.cases import Comparison
from alignxplore_trl.data import alignx, world
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences

# From one half, where the positive pole (0.6) or the negative one (0.4) begins.
_NEUTRAL = 0.1
# An entry for each dimension: 1 speaks for the positive pole, 0 for the negative one, one half for
# neither; `None` where nothing is known.
Labels = tuple[float | None, ...]


@dataclass(eq=False)
class Pba(Method):
    """State the poles that a user's signals agree on.

    A dimension's entry is the mean over the signals' direction vectors: from 0.6 on the positive
    pole is stated, up to 0.4 the negative one. Where all are neutral, the entry farthest from one
    half is stated, and all that are equally far; where nothing is known, the case is left out.

    Where a case has no vectors the judge labels its comparisons, each once: it is asked which reply
    a user prefers who is described by one pole alone. A label is the mean of
    P(chosen | positive pole) and 1 - P(chosen | negative pole).

    Attributes:
        judge: labels where there are no vectors.
        dimensions: `name`, `positive` and `negative` of each, in the order of the vectors. `None`:
            those of the simulated world, in its wording.
    """

    judge: Judge
    dimensions: Sequence[Mapping[str, str]] | None = None
    _labels: dict[Comparison, Labels] = field(init=False, default_factory=dict)

    def describe(self, asked: Asked) -> list[Said]:
        shown = dict.fromkeys(s for c in asked.cases if c.vectors is None for s in c.signals)
        self._label([s for s in shown if isinstance(s, Comparison) and s not in self._labels])
        said = []
        for case in asked.cases:
            labels = [self._labels[s] for s in case.signals if s in self._labels]
            vectors = None if case.vectors is None else [own for own in case.vectors if own]
            entries = mean_labels(labels if vectors is None else vectors)
            if any(entry is not None for entry in entries):
                text = self._describe(stated_poles(entries, self._poles()))
                said.append(Said(case.case_id, description=text))
        return said

    def _poles(self) -> list[tuple[str, str]]:
        if self.dimensions is None:
            return [(one, other) for one, other in world.WORDINGS.values()]
        return [(own["positive"], own["negative"]) for own in self.dimensions]

    def _describe(self, poles: Sequence[str]) -> str | None:
        if self.dimensions is None:
            return world.describe(poles) or None
        return alignx.describe(dict(zip(poles, poles, strict=True)))

    def _label(self, choices: Sequence[Comparison]) -> None:
        poles = self._poles()
        pairs = [
            JudgedPair("", own.post, self._describe([pole]), own.chosen, own.rejected)
            for own in choices
            for pole in chain.from_iterable(poles)
        ]
        answers = iter(preferences(self.judge, pairs, "both", seed=0))
        for choice in choices:
            own = [(next(answers), next(answers)) for _ in poles]
            self._labels[choice] = tuple(
                None if a is None or b is None else (a + 1.0 - b) / 2 for a, b in own
            )


def mean_labels(signals: Sequence[Labels]) -> Labels:
    """The mean of each dimension over the signals that have a label there."""
    columns = [[own for own in column if own is not None] for column in zip(*signals, strict=True)]
    return tuple(sum(known) / len(known) if known else None for known in columns)


def stated_poles(entries: Labels, poles: Sequence[tuple[str, str]]) -> list[str]:
    """The poles that the entries speak for, in the order of the dimensions."""
    known = [(e - 0.5, own) for e, own in zip(entries, poles, strict=True) if e is not None]
    least = min(_NEUTRAL, max((abs(way) for way, _ in known), default=0.0))
    return [
        positive if way > 0 else negative
        for way, (positive, negative) in known
        if way and (abs(way) > least or isclose(abs(way), least))
    ]

"""PBA: scores of a user on predefined dimensions, from labelled choices, put into words.

Source: METHOD, The methods we compare with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import isclose

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.data.alignx import Dimension, compose_description
from alignxplore_trl.data.world import WORDINGS, describe
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preference_probabilities
from alignxplore_trl.run.progress import Bar
from alignxplore_trl.signals import Comparison, PreferenceCase

POSITIVE = 0.6
NEGATIVE = 0.4
# Choices that are labelled in one call of the judge.
_LABELLED_AT_ONCE = 128

# Of one choice, an entry for each dimension: 1 speaks for the positive pole, 0 for the negative
# one, one half for neither; `None` where the judge gave no answer.
Labels = tuple[float | None, ...]


class Pba:
    """Label each of the user's choices on every dimension, and state the poles they agree on.

    A dimension's entry is the mean over choices: from 0.6 on the positive pole is stated, up to 0.4
    the negative one. Where all are neutral, the entry farthest from one half is stated, and all
    that are equally far; where nothing at all is known, there is no description.

    The judge labels: it is asked which reply a user prefers who is described by one pole alone, in
    both orders of the replies. A label is the mean of P(chosen | positive pole) and
    1 - P(chosen | negative pole). A choice is labelled once, however many cases show it.

    Args:
        judge: what labels.
        dimensions: the predefined ones, with the words for their poles.
        compose: puts poles into one description.

    Attributes:
        counts: since the start, `signals_not_compared` (posts and attributes, which can't be
            labelled by a pair), `labels_unanswered`, and `cases_left_out` (nothing was labelled).
    """

    def __init__(
        self,
        judge: Judge,
        dimensions: Sequence[Dimension],
        compose: Callable[[Sequence[str]], str] = compose_description,
    ) -> None:
        self._judge = judge
        self._dimensions = dimensions
        self._compose = compose
        self._labels: dict[Comparison, Labels] = {}
        self.counts: Counter[str] = Counter()

    @classmethod
    def of_world(cls, judge: Judge) -> Pba:
        """The dimensions and the wording of the simulated world."""
        return cls(judge, [Dimension(name, *poles) for name, poles in WORDINGS.items()], describe)

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        histories = [[s for s in case.signals if isinstance(s, Comparison)] for case in cases]
        self._label([choice for history in histories for choice in history])
        described = []
        for case, history in zip(cases, histories, strict=True):
            self.counts["signals_not_compared"] += len(case.signals) - len(history)
            entries = mean_labels([self._labels[choice] for choice in history])
            if all(entry is None for entry in entries):
                self.counts["cases_left_out"] += 1
                continue
            poles = stated_poles(entries, self._dimensions)
            description = self._compose(poles) if poles else None
            described.append(UserDescription(case.case_id, description))
        return described

    def _label(self, choices: Sequence[Comparison]) -> None:
        """Ask about the choices that have no labels yet, and keep these."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._labels]
        with Bar("labelling choices", len(new)) as bar:
            for start in range(0, len(new), _LABELLED_AT_ONCE):
                batch = new[start : start + _LABELLED_AT_ONCE]
                answers = iter(
                    preference_probabilities(
                        self._judge,
                        [question for choice in batch for question in self._questions(choice)],
                        order="both",
                        seed=0,
                    )
                )
                for choice in batch:
                    labels = tuple(_label(next(answers), next(answers)) for _ in self._dimensions)
                    self.counts["labels_unanswered"] += labels.count(None)
                    self._labels[choice] = labels
                bar.advance(len(batch))

    def _questions(self, choice: Comparison) -> list[JudgedPair]:
        """Two for each dimension: the choice of a user who is described by one of its poles."""
        return [
            JudgedPair("", choice.post, self._compose([pole]), choice.chosen, choice.rejected)
            for dimension in self._dimensions
            for pole in (dimension.positive, dimension.negative)
        ]


def mean_labels(choices: Sequence[Labels]) -> Labels:
    """The mean of each dimension over the choices that have a label there; `None` without one."""
    return tuple(
        _mean([label for label in of_dimension if label is not None])
        for of_dimension in zip(*choices, strict=True)
    )


def stated_poles(entries: Labels, dimensions: Sequence[Dimension]) -> list[str]:
    """The poles that the entries speak for, in the order of the dimensions."""
    known = [(e, own) for e, own in zip(entries, dimensions, strict=True) if e is not None]
    stated = [(e, own) for e, own in known if e >= POSITIVE or e <= NEGATIVE]
    if not stated:
        farthest = max((abs(e - 0.5) for e, _ in known), default=0.0)
        stated = [(e, own) for e, own in known if e != 0.5 and isclose(abs(e - 0.5), farthest)]
    return [own.positive if e > 0.5 else own.negative for e, own in stated]


def _label(of_positive: float | None, of_negative: float | None) -> float | None:
    if of_positive is None or of_negative is None:
        return None
    return (of_positive + 1.0 - of_negative) / 2


def _mean(labels: Sequence[float]) -> float | None:
    return sum(labels) / len(labels) if labels else None

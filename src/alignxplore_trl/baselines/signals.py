"""Signals (E in the paper): the user's raw history in place of a description."""

from __future__ import annotations

from collections.abc import Sequence

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.signals import Comparison, Post, PreferenceCase, Signal


class Signals:
    """Give the judge the signals themselves, in plain text.

    All signals of the case are shown: cut a case to a setting's history first
    (`Setting.history`), since four signals and eight are different methods.
    """

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        return [
            UserDescription(case.case_id, "\n\n".join(map(plain_text, case.signals)))
            for case in cases
        ]


def plain_text(signal: Signal) -> str:
    """A signal in words, without the tags of any template: a judge's prompt would escape them."""
    if isinstance(signal, Comparison) and signal.form == "items":
        return f"{signal.post}\nChosen: {signal.chosen}\nPassed over: {signal.rejected}"
    if isinstance(signal, Comparison):
        return f"Post: {signal.post}\nChosen: {signal.chosen}\nRejected: {signal.rejected}"
    if isinstance(signal, Post):
        return f"Post: {signal.post}\nComment: {signal.comment}"
    return f"About the user: {signal.text}"

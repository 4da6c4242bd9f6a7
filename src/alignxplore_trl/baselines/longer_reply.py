"""Longer reply: a control that asks no judge and shows what length alone gives away."""

from __future__ import annotations

from collections.abc import Sequence

from alignxplore_trl.baselines.protocol import Decision
from alignxplore_trl.signals import PreferenceCase


class LongerReply:
    """Prefer the reply with more characters; equal lengths are a tie."""

    def decide(self, cases: Sequence[PreferenceCase]) -> list[Decision]:
        return [
            Decision(case.case_id, _longer(len(case.target.chosen), len(case.target.rejected)))
            for case in cases
        ]


def _longer(chosen: int, rejected: int) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)

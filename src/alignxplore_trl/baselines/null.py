"""Null: no description at all, what a judge thinks of the replies without knowing the user."""

from __future__ import annotations

from collections.abc import Sequence

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.signals import PreferenceCase


class Null:
    """Ask the judge without a description."""

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        return [UserDescription(case.case_id, description=None) for case in cases]

"""Golden: the true description, the most that a description can be worth to a judge."""

from __future__ import annotations

from collections.abc import Sequence

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.signals import PreferenceCase


class Golden:
    """Give the judge the benchmark's true description; cases without one are left out."""

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        return [
            UserDescription(case.case_id, case.description)
            for case in cases
            if case.description is not None
        ]

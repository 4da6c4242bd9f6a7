"""The signals that methods read in each setting, as they are or varied for a robustness set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignxplore_trl.data.robustness import (
    Drift,
    count_variations,
    read_variation,
    vary,
    vary_target,
)
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.signals import PreferenceCase


@dataclass(frozen=True)
class Histories:
    """What is read, and what is scored.

    Attributes:
        cases: all cases, with the target pairs that are scored.
        by_setting: the cases that have enough signals for a setting, cut to those it reads.
        changes: one row per setting and case that says what was done to it; empty where nothing is
            varied.
        counts: how much was changed in each setting, `<setting>/<what>`.
    """

    cases: Sequence[PreferenceCase]
    by_setting: Mapping[Setting, Sequence[PreferenceCase]]
    changes: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def histories_of(
    cases: Sequence[PreferenceCase],
    settings: Sequence[Setting],
    variation_name: str | None,
    seed: int,
    opposites: Mapping[str, str],
) -> Histories:
    """The histories of each setting, varied if a name of a variation is given.

    A variation is applied to what a setting reads, not to the whole history: with one reversed pair
    there is one among the four of base4, and one among the eight of base8. Settings that read
    equally many signals read the same ones. A setting that reads fewer signals than are to be
    reversed is left out.

    Raises:
        UserError: the variation's name can't be read, or a case can't be varied so.
    """
    read = {setting: setting.history(cases) for setting in settings}
    if variation_name is None:
        return Histories(cases, read)
    variation = read_variation(variation_name)
    varied = {
        setting: [vary(case, variation, seed, opposites) for case in own]
        for setting, own in read.items()
        if not (isinstance(variation, Drift) and variation.count > setting.signals)
    }
    return Histories(
        cases=[vary_target(case, variation, opposites) for case in cases],
        by_setting={setting: [each.case for each in own] for setting, own in varied.items()},
        changes=[
            {"setting": setting.name, **each.row()}
            for setting, own in varied.items()
            for each in own
        ],
        counts={
            f"{setting.name}/{name}": count
            for setting, own in varied.items()
            for name, count in count_variations(own).items()
        },
    )

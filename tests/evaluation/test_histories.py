"""What each setting reads of a robustness set."""

from __future__ import annotations

from dataclasses import replace

from alignxplore_trl.data.world import OPPOSITE, World
from alignxplore_trl.evaluation.histories import histories_of
from alignxplore_trl.evaluation.settings import Setting

CASES = [*World(seed=1).cases("test", 20)]
CASES[3] = replace(CASES[3], signals=CASES[3].signals[:5])
SETTINGS = [Setting.from_name(name) for name in ("base4", "base8", "streaming4+4")]


def test_without_a_variation_nothing_is_changed_or_recorded():
    found = histories_of(CASES, SETTINGS, None, 0, OPPOSITE)
    assert found.cases == CASES
    assert found.by_setting == {setting: setting.history(CASES) for setting in SETTINGS}
    assert (found.changes, found.counts) == ([], {})


def test_each_setting_has_its_share_in_what_it_reads():
    found = histories_of(CASES, SETTINGS, "one_reversed", 0, OPPOSITE)
    base4, base8, streaming = SETTINGS
    assert len(found.by_setting[base4]) == 20
    assert len(found.by_setting[base8]) == 19, "a case with 5 signals is not read with fewer"
    assert found.by_setting[base8] == found.by_setting[streaming]
    for setting in SETTINGS:
        pairs = zip(setting.history(CASES), found.by_setting[setting], strict=True)
        assert all(sum(a != b for a, b in zip(old.signals, new.signals, strict=True)) == 1
                   for old, new in pairs)  # fmt: skip
        assert found.counts[f"{setting.name}/signals_reversed"] == len(found.by_setting[setting])
    assert len(found.changes) == 20 + 19 + 19
    assert found.cases == CASES, "the target stays, so what is scored stays"


def test_reversed_cases_are_scored_on_the_reversed_target():
    found = histories_of(CASES, SETTINGS, "reversed", 0, OPPOSITE)
    for old, new in zip(CASES, found.cases, strict=True):
        assert (new.target.chosen, new.target.rejected) == (old.target.rejected, old.target.chosen)
    targets = {case.case_id: case.target for case in found.cases}
    read = [case for own in found.by_setting.values() for case in own]
    assert all(case.target == targets[case.case_id] for case in read)
    assert {row["target_reversed"] for row in found.changes} == {True}

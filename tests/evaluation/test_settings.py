"""Names of settings, and the history each one reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.run.errors import UserError


@pytest.mark.parametrize(
    ("name", "setting"),
    [("base4", Setting(4)), ("base8", Setting(8)), ("streaming4+4", Setting(4, 2))],
)
def test_names(name, setting):
    assert Setting.from_name(name) == setting
    assert setting.name == name


@given(st.integers(1, 99), st.integers(1, 9))
def test_names_are_read_back(per_round, rounds):
    setting = Setting(per_round, rounds)
    assert Setting.from_name(setting.name) == setting
    assert setting.signals == per_round * rounds


@pytest.mark.parametrize(
    "name", ["", "base", "base0", "base4+4", "streaming4", "streaming4+8", "x4"]
)
def test_other_names_are_refused(name):
    with pytest.raises(
        UserError, match=f"{name!r} found, expected base<signals>".replace("+", r"\+")
    ):
        Setting.from_name(name)


def test_history_is_cut_and_short_cases_are_left_out():
    short = World(seed=0, signals_per_user=4).cases("test", 3)
    long = World(seed=1, signals_per_user=9).cases("test", 2)
    history = Setting(4, 2).history([*short, *long])
    assert [case.case_id for case in history] == [case.case_id for case in long]
    assert [case.signals for case in history] == [case.signals[:8] for case in long]
    assert [case.target for case in history] == [case.target for case in long]

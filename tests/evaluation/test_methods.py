"""Methods by name: how pairs to compare are written."""

import pytest

from alignxplore_trl.evaluation.methods import (
    DECIDING,
    ONE_READING,
    PROMPTING,
    UNTRAINED,
    WITHOUT_MODEL,
    MethodSetting,
    read_comparison,
)
from alignxplore_trl.run.errors import UserError


def test_a_pair_is_two_methods_in_their_settings():
    assert read_comparison("rl_streaming/streaming4+4 - golden/base8") == (
        MethodSetting("rl_streaming", "streaming4+4"),
        MethodSetting("golden", "base8"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("golden/base4", "expected two methods in their settings"),
        ("golden - null/base4", "'golden' found, expected <method>/<setting>"),
        ("golden/base4 - null/base", "'base' found, expected base<signals>"),
        ("golden/base4 - /base4", "'/base4' found, expected <method>/<setting>"),
        ("a/base4 - b/base4 - c/base4", "expected two methods"),
        ("golden/base4/x - null/base4", "'golden/base4/x' found, expected <method>/<setting>"),
    ],
)
def test_another_form_is_refused(text, message):
    with pytest.raises(UserError) as error:
        read_comparison(text)
    assert message in str(error.value)


def test_names_are_fit_for_keys_of_a_summary():
    names = [*WITHOUT_MODEL, *DECIDING, *ONE_READING, *PROMPTING, *UNTRAINED]
    assert not [name for name in names if "/" in name or "-" in name]

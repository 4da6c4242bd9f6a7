"""What is known of the published files before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

SettingName = Literal["base", "streaming"]
COLD_START_FILE: Mapping[SettingName, str] = {
    "base": "cold_start.json",
    "streaming": "streaming_cold_start.json",
}
RL_FILE: Mapping[SettingName, str] = {
    "base": "rl_train.json",
    "streaming": "streaming_rl_train.json",
}
TEST_FILE = "rl_test.json"
# Signals that a prompt of training holds: it is one text, which can't be made of others.
SIGNALS_IN_PROMPT = 4

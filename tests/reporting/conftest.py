"""Summaries of evaluations as a run folder holds them, one per seed."""

from typing import Any

import pytest

ROWS = [
    ("null", "base4", 0.5, None),
    ("golden", "base4", 1.0, None),
    ("rl_base8", "base8", 0.8, 0.97),
    ("rl_streaming", "streaming4+4", 0.84, 0.99),
]


def make_summary(seed: int) -> dict[str, Any]:
    """Figures that differ between seeds by a point, judges by five, intervals by four."""
    summary: dict[str, Any] = {"status": "finished", "seed": seed, "wall_s": 12.5}
    for judge, lost in (("judge", 0.0), ("test_judge", 0.05)):
        for method, setting, accuracy, well_formed in ROWS:
            where = f"world/{judge}/{method}/{setting}"
            value = accuracy if accuracy in (0.5, 1.0) else accuracy - lost + seed / 100
            summary[f"acc_jud/{where}"] = value
            summary[f"acc_jud/{where}/low"] = value - 0.04
            summary[f"acc_jud/{where}/high"] = min(1.0, value + 0.04)
            summary[f"cases/{where}"] = 1000
            summary[f"judge_failures/{where}"] = 0
            if well_formed is not None:
                summary[f"well_formed/{where}"] = well_formed
                summary[f"precision/{where}"] = 0.7125
                summary[f"recall/{where}"] = 0.62
                summary[f"contradictions/{where}"] = 0.03
                summary[f"description_tokens/{where}"] = 7.4
        where = f"world/{judge}/rl_streaming-rl_base8/streaming4+4-base8"
        gain = 0.04 + seed / 100 - lost
        summary[f"acc_jud_difference/{where}"] = gain
        summary[f"acc_jud_difference/{where}/low"] = gain - 0.02
        summary[f"acc_jud_difference/{where}/high"] = gain + 0.02
        summary[f"paired_cases/{where}"] = 1000
    return summary


@pytest.fixture
def summaries() -> list[dict[str, Any]]:
    return [make_summary(seed) for seed in range(3)]

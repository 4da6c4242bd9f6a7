"""The report on a judge: its table says what was measured, and its chart draws it."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np

from alignxplore_trl.evaluation.judge_quality import JudgeQuality, calibration_bins
from alignxplore_trl.evaluation.statistics import Estimate
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Preference
from alignxplore_trl.reporting.charts import judge_chart
from alignxplore_trl.reporting.tables import judge_table

BLUE, ORANGE = (0x3B, 0x6F, 0xB5), (0xE0, 0x8A, 0x3C)


def quality(probabilities: list[float], **measured: object) -> JudgeQuality:
    return JudgeQuality(
        cases=len(probabilities),
        accuracy=Estimate(0.75, 0.7, 0.8),
        position_gap=Estimate(0.125, 0.1, 0.2),
        preferences=tuple(Preference(p, 0.1) for p in probabilities),
        calibration=calibration_bins(probabilities, 10),
        calibration_error=0.061,
        measurements=Measurements(**measured),  # type: ignore[arg-type]
    )


MEASURED = quality(
    [0.9, 0.8, 0.7, 0.2],
    seconds=0.5, questions=8, tokens=100, latencies=[0.1, 0.3], unanswered={"timeout": 2},
    label_masses=[0.8, 1.0], probabilities_a=[0.4, 0.5],
)  # fmt: skip


def row_of(table: str, method: str) -> list[str]:
    (row,) = [line for line in table.splitlines() if line.startswith(method)]
    return row.split()


def test_the_table_says_what_was_measured() -> None:
    table = judge_table({"golden": MEASURED}, "tiny", without_description=3)
    assert row_of(table, "golden") == [
        "golden", "75.0", "(70.0–80.0)", "12.5", "45.0", "90.0", "81.0", "25.0", "6.1", "16",
        "200", "(290)",
    ]  # fmt: skip
    assert "The true description of 3 cases isn't known." in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 110


def test_without_true_descriptions_the_row_is_there_and_empty() -> None:
    table = judge_table({"null": quality([0.5])}, "tiny", without_description=1)
    assert row_of(table, "golden") == ["golden", *["–"] * 9]
    assert row_of(table, "null")[-2:] == ["–", "–"]  # Nothing was timed.


def test_the_chart_has_a_colour_for_each_kind_of_description(tmp_path: Path) -> None:
    both = {"golden": MEASURED, "null": quality([0.5, 0.6], label_masses=[0.3])}
    judge_chart(both, "tiny", tmp_path / "judge.png")
    image = np.round(matplotlib.image.imread(tmp_path / "judge.png")[..., :3] * 255).astype(int)
    thirds = np.array_split(image, 3, axis=1)
    for colour in (BLUE, ORANGE):
        for third in thirds:
            assert (third == colour).all(axis=2).sum() > 50
    judge_chart({"golden": MEASURED}, "tiny", tmp_path / "one.png")
    image = np.round(matplotlib.image.imread(tmp_path / "one.png")[..., :3] * 255).astype(int)
    assert not (image == ORANGE).all(axis=2).any()

"""What is said of a judge, against plain numpy and judges whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.judge_quality import (
    CalibrationBin,
    calibration_bins,
    calibration_error,
    judge_quality,
)
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.text.rendering import Question

CASES = World(seed=1).cases("validation", 50)
CHOSEN = {case.target.chosen for case in CASES}


class LeaningJudge:
    """Names the right reply with 0.8 if it is told anything, and A with 0.1 more than it thinks."""

    def __init__(self) -> None:
        self.asked = 0
        self.silent = 0

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += len(questions)
        return [self._verdict(question) for question in questions]

    def take_measurements(self) -> Measurements:
        taken = Measurements(
            seconds=2.0,
            questions=self.asked,
            tokens=10 * self.asked,
            unanswered={"timeout": self.silent} if self.silent else {},
            latencies=[0.1, 0.2],
            label_masses=[0.9] * 19 + [0.5],
            probabilities_a=[0.6],
        )
        self.asked = self.silent = 0
        return taken

    def _verdict(self, question: Question) -> Verdict | None:
        if question.description == "silence":
            self.silent += 1
            return None
        right = 0.8 if question.description else 0.5
        shown = right if question.response_a in CHOSEN else 1 - right
        return Verdict(shown + 0.1, 0.9)


def test_a_judge_that_is_told_the_truth() -> None:
    judge = LeaningJudge()
    judge.judge([Question("before", None, "a", "b")])
    quality = judge_quality(judge, CASES, {case.case_id: "x" for case in CASES}, bins=5)
    figures = quality.figures()
    assert (figures["cases"], figures["questions"], figures["unanswered"]) == (50, 100, 0)
    assert figures["acc_jud"] == figures["acc_jud_low"] == figures["acc_jud_high"] == 1.0
    assert figures["position_gap"] == pytest.approx(0.9 - 0.7)
    assert quality.calibration == (CalibrationBin(pytest.approx(0.8), 1.0, 50),)
    assert figures["calibration_error"] == pytest.approx(0.2)
    assert figures["questions_per_second"] == 50.0
    assert figures["tokens_per_second"] == 500.0
    assert figures["latency_p50"] == pytest.approx(0.15)
    assert figures["label_mass"] == pytest.approx(0.88)
    assert figures["label_mass_p5"] == pytest.approx(np.percentile([0.9] * 19 + [0.5], 5))
    assert figures["probability_a"] == 0.6


def test_a_judge_that_is_told_nothing_wins_nothing() -> None:
    quality = judge_quality(LeaningJudge(), CASES, {case.case_id: None for case in CASES}, bins=5)
    assert quality.accuracy.value == 0.0  # A tie is no win.
    assert quality.calibration_error == pytest.approx(0.5)


def test_what_was_not_answered_is_counted_and_moves_nothing() -> None:
    told = {case.case_id: "silence" if number < 10 else "x" for number, case in enumerate(CASES)}
    quality = judge_quality(LeaningJudge(), CASES, told, bins=5)
    assert quality.preferences[:10] == (None,) * 10
    assert quality.accuracy.value == 1.0
    assert sum(each.cases for each in quality.calibration) == 40
    assert quality.figures()["unanswered_timeout"] == 20
    silence = judge_quality(LeaningJudge(), CASES, dict.fromkeys(told, "silence"), bins=5)
    assert silence.accuracy.value is None
    assert silence.calibration == ()
    assert silence.calibration_error is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 12))
def test_calibration_is_that_of_plain_numpy(probabilities: list[float], bins: int) -> None:
    p = np.array(probabilities)
    confidence, right = np.maximum(p, 1 - p), p > 0.5
    edges = np.linspace(0.5, 1.0, bins + 1)
    # An edge itself is in doubt by the last bit: such cases are left to the totals below.
    clear = np.abs(confidence[:, None] - edges).min(axis=1) > 1e-9
    found = calibration_bins(p[clear].tolist(), bins)
    number = np.digitize(confidence[clear], edges) - 1
    expected = [
        (confidence[clear][number == n].mean(), right[clear][number == n].mean())
        for n in np.unique(number)
    ]
    assert [(each.confidence, each.right) for each in found] == [
        (pytest.approx(a), pytest.approx(b)) for a, b in expected
    ]
    everything = calibration_bins(probabilities, bins)
    assert sum(each.cases for each in everything) == len(p)
    assert sum(each.right * each.cases for each in everything) == pytest.approx(right.sum())
    error = calibration_error(everything)
    assert error is not None
    assert abs(confidence.mean() - right.mean()) - 1e-9 <= error <= 1.0

"""What a judge is worth before anything is trained against it: right, even-handed, sure, quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignxplore_trl.evaluation.scoring import is_correct
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap, Estimate
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Judge, JudgedPair, Preference, preferences
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import PreferenceCase

_CASES_AT_ONCE = 256


@dataclass(frozen=True)
class CalibrationBin:
    """The cases in which a judge was about equally sure.

    Attributes:
        confidence: mean probability of the reply that the judge preferred, from 0.5 to 1.
        right: share of them in which that was the user's.
        cases: how many there are.
    """

    confidence: float
    right: float
    cases: int


@dataclass(frozen=True)
class JudgeQuality:
    """A judge's answers about cases under one kind of description, both orders asked.

    Attributes:
        cases: how many it was asked about.
        accuracy: mean of R_jud over those it answered.
        position_gap: mean distance of the answers in the two orders.
        preferences: what it answered, in the order of the cases.
        calibration: bins of equal width, those without a case left out.
        calibration_error: mean distance of confidence and right share, weighted by cases (ECE, Guo
            et al. 2017, eq. 3); `None` without an answer.
        measurements: label masses, probabilities of A, latencies, tokens, reasons of no answer.
    """

    cases: int
    accuracy: Estimate
    position_gap: Estimate
    preferences: tuple[Preference | None, ...]
    calibration: tuple[CalibrationBin, ...]
    calibration_error: float | None
    measurements: Measurements

    def figures(self) -> dict[str, float | int | None]:
        """The numbers by name; `None` where nothing was measured."""
        measured = self.measurements
        asked, seconds = measured.questions, measured.seconds
        return {
            "cases": self.cases,
            "questions": asked,
            "unanswered": sum(measured.unanswered.values()),
            **{f"unanswered_{why}": count for why, count in sorted(measured.unanswered.items())},
            "acc_jud": self.accuracy.value,
            "acc_jud_low": self.accuracy.low,
            "acc_jud_high": self.accuracy.high,
            "position_gap": self.position_gap.value,
            "probability_a": _mean(measured.probabilities_a),
            "label_mass": _mean(measured.label_masses),
            "label_mass_p5": _percentile(measured.label_masses, 5),
            "calibration_error": self.calibration_error,
            "questions_per_second": asked / seconds if seconds else None,
            "tokens_per_second": measured.tokens / seconds if seconds else None,
            "latency_p50": _percentile(measured.latencies, 50),
            "latency_p95": _percentile(measured.latencies, 95),
        }


def judge_quality(
    judge: Judge,
    cases: Sequence[PreferenceCase],
    descriptions: Mapping[str, str | None],
    *,
    bins: int,
) -> JudgeQuality:
    """Ask a judge about cases in both orders.

    Args:
        judge: asked once about everything; what it measured before is dropped.
        cases: at least one.
        descriptions: what it is told of the user of each case, by case id.
        bins: of the calibration, between confidences of one half and 1.
    """
    judge.take_measurements()
    pairs = [
        JudgedPair(
            case.case_id,
            case.target.post,
            descriptions[case.case_id],
            case.target.chosen,
            case.target.rejected,
        )
        for case in cases
    ]
    starts = range(0, len(pairs), _CASES_AT_ONCE)
    found = [
        own
        for start in progress(starts, f"batches of {_CASES_AT_ONCE} judged cases", len(starts))
        for own in preferences(judge, pairs[start : start + _CASES_AT_ONCE], "both", seed=0)
    ]
    bootstrap = ClusteredBootstrap([case.cluster for case in cases])
    probabilities = [None if own is None else own.probability for own in found]
    calibration = calibration_bins([p for p in probabilities if p is not None], bins)
    return JudgeQuality(
        cases=len(cases),
        accuracy=bootstrap.mean([is_correct(p) for p in probabilities]),
        position_gap=bootstrap.mean([None if own is None else own.position_gap for own in found]),
        preferences=tuple(found),
        calibration=calibration,
        calibration_error=calibration_error(calibration),
        measurements=judge.take_measurements(),
    )


def calibration_bins(probabilities: Sequence[float], bins: int) -> tuple[CalibrationBin, ...]:
    """How often a judge is right when it is so sure.

    Args:
        probabilities: its probability of the right reply, per case; one half is not right.
        bins: of equal width, between confidences of one half and 1; those without a case are left
            out.
    """
    of_right = np.asarray(probabilities, dtype=np.float64)
    confidence = np.maximum(of_right, 1.0 - of_right)
    right = of_right > 0.5
    number = np.minimum((2.0 * (confidence - 0.5) * bins).astype(int), bins - 1)
    return tuple(
        CalibrationBin(
            float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())
        )
        for inside in (number == each for each in range(bins))
        if inside.any()
    )


def calibration_error(calibration: Sequence[CalibrationBin]) -> float | None:
    """Mean distance of confidence and right share, each bin weighted by its cases."""
    cases = sum(each.cases for each in calibration)
    if not cases:
        return None
    return sum(abs(each.right - each.confidence) * each.cases for each in calibration) / cases


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return float(np.percentile(values, percent)) if values else None

"""What a judge or a generator did, counted, so that a run can say how it was rewarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass
class Measurements:
    """Counts since they were last taken; those of several processes add up.

    Attributes:
        seconds: spent waiting for answers, of this process.
        latencies: seconds of each request to a server, or of each forward pass.
        requests: requests sent or forward passes made, repeated ones included.
        retries: requests that repeated a failed one.
        questions: what was asked, before equal questions are put together.
        unanswered: questions without an answer, by reason.
        lookups: answers looked for in a cache, equal questions of a batch included.
        hits: those found there.
        tokens: tokens that the model had to read or write for the answers.
        label_masses: of each verdict.
        probabilities_a: of each verdict.
        position_gaps: |P(chosen | shown first) - P(chosen | shown second)| where both were asked.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    requests: int = 0
    retries: int = 0
    questions: int = 0
    unanswered: dict[str, int] = field(default_factory=dict)
    lookups: int = 0
    hits: int = 0
    tokens: int = 0
    label_masses: list[float] = field(default_factory=list)
    probabilities_a: list[float] = field(default_factory=list)
    position_gaps: list[float] = field(default_factory=list)

    def __add__(self, other: Measurements) -> Measurements:
        """The sum, field by field; lists are joined and reasons counted together."""
        sums = {
            each.name: _sum(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)
        }
        return Measurements(**sums)

    def metrics(self) -> Mapping[str, float]:
        """Metrics under `judge/…`, the same keys whatever happened; NaN where nothing was measured.

        Percentiles are of the latencies themselves: those of several processes have to be added
        before, since a mean of percentiles is none.
        """
        failed = sum(self.unanswered.values())
        return {
            "judge/failed_share": _share(failed, self.questions),
            "judge/requests": float(self.requests),
            "judge/retries": float(self.retries),
            "judge/latency_p50": _percentile(self.latencies, 50),
            "judge/latency_p95": _percentile(self.latencies, 95),
            "judge/cache_hits": _share(self.hits, self.lookups),
            "judge/tokens_per_second": _share(self.tokens, self.seconds),
            "judge/label_mass": _mean(self.label_masses),
            "judge/probability_a": _mean(self.probabilities_a),
            "judge/position_gap": _mean(self.position_gaps),
        }


def _sum(ours: Any, others: Any) -> Any:
    if isinstance(ours, dict):
        return {
            key: ours.get(key, 0) + others.get(key, 0) for key in dict.fromkeys([*ours, *others])
        }
    return ours + others


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _percentile(values: list[float], percent: int) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")

"""Measurements add up over processes, and percentiles are of what was measured."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.judging.measurements import Measurements

COUNTS = st.integers(0, 1000)
SECONDS = st.lists(st.floats(0, 1000), max_size=5)
MEASURED = st.builds(
    Measurements,
    seconds=st.integers(0, 100).map(float),
    latencies=SECONDS,
    requests=COUNTS,
    retries=COUNTS,
    questions=COUNTS,
    unanswered=st.dictionaries(st.sampled_from(["timeout", "label_mass", "too_long"]), COUNTS),
    lookups=COUNTS,
    hits=COUNTS,
    tokens=COUNTS,
    label_masses=SECONDS,
    probabilities_a=SECONDS,
    position_gaps=SECONDS,
)


@given(MEASURED, MEASURED, MEASURED)
def test_sums_do_not_depend_on_how_processes_are_grouped(one, two, three):
    assert (one + two) + three == one + (two + three)
    assert one + Measurements() == one


@given(MEASURED)
def test_the_keys_are_the_same_whatever_happened(measured):
    assert measured.metrics().keys() == Measurements().metrics().keys()
    assert all(math.isnan(value) or value >= 0 for value in measured.metrics().values())


def test_metrics_are_of_both_processes_together():
    one = Measurements(seconds=2.0, latencies=[1.0, 1.0, 1.0], questions=3, tokens=10)
    two = Measurements(seconds=2.0, latencies=[9.0], questions=1, unanswered={"timeout": 1})
    metrics = (one + two).metrics()
    assert metrics["judge/latency_p50"] == np.percentile([1, 1, 1, 9], 50)
    assert metrics["judge/latency_p95"] == np.percentile([1, 1, 1, 9], 95)
    assert metrics["judge/failed_share"] == 0.25
    assert metrics["judge/tokens_per_second"] == 2.5
    assert math.isnan(metrics["judge/label_mass"])

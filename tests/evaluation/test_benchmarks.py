"""Names of benchmarks, and the cases behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import OPPOSITE, World
from alignxplore_trl.evaluation.benchmarks import BenchmarkName, make_benchmark
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.run.errors import UserError

SOURCES = ("world", "alignx", "psoups")
SETTINGS = [Setting.from_name(name) for name in ("base4", "base8", "streaming4+4")]


@given(
    st.sampled_from(SOURCES),
    st.sampled_from(["pairs", "posts"]),
    st.none() | st.sampled_from(["reversed", "drift3", "one_reversed", "shuffled", "noise0.25"]),
)
def test_a_name_is_read_as_it_is_written(source, cases, variation):
    name = BenchmarkName(source, cases, variation)
    assert BenchmarkName.read(str(name), SOURCES) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wrld", "expected a name that begins with one of the data there are, world, alignx"),
        ("world_drfit3", "expected world, world_posts or one of them with an underscore and"),
        ("alignx_posts_drift", "alignx_posts_drift found, expected alignx, alignx_posts or"),
        ("worldly", "expected a name that begins with"),
        ("world_posts2", "expected world, world_posts or"),
    ],
)
def test_a_name_that_is_none_is_refused(text, message):
    with pytest.raises(UserError) as error:
        BenchmarkName.read(text, SOURCES)
    assert message in str(error.value)


def test_a_setting_that_reads_fewer_signals_than_are_reversed_is_left_out():
    cases = World(seed=1).cases("test", 5)
    name = BenchmarkName("world", variation="drift6")
    benchmark = make_benchmark(name, cases, SETTINGS, 0, OPPOSITE)
    assert benchmark.name == "world_drift6"
    assert set(benchmark.histories.by_setting) == set(SETTINGS[1:])
    assert benchmark.cases == cases
    turned = benchmark.histories.by_setting[SETTINGS[1]][0]
    assert turned.signals[:6] == tuple(each.reversed() for each in cases[0].signals[:6])
    assert turned.signals[6:] == cases[0].signals[6:8]

"""Charts draw the figures: measured in the pixels of the PNG."""

import matplotlib.image
import numpy as np
import pytest

from alignxplore_trl.reporting.charts import (
    accuracy_chart,
    bar_panels,
    curve_panels,
    training_chart,
)

BLUE, ORANGE = (0x3B, 0x6F, 0xB5), (0xE0, 0x8A, 0x3C)


def pixels(path):
    return np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)


def lengths(image, colour):
    """The width in pixels of each run of rows that holds a bar of the colour, top to bottom."""
    widths = (image == colour).all(axis=2).sum(axis=1)
    bars = np.split(widths, np.flatnonzero(np.diff((widths > 40).astype(int))) + 1)
    return [bar.max() for bar in bars if bar.min() > 40]


def test_bars_are_as_long_as_accuracies(summaries, tmp_path):
    accuracy_chart(summaries[0], "world", tmp_path / "charts" / "accuracy.png")
    image = pixels(tmp_path / "charts" / "accuracy.png")
    for colour, expected in ((BLUE, [0.5, 1.0, 0.8, 0.84]), (ORANGE, [0.5, 1.0, 0.75, 0.79])):
        legend, *bars = lengths(image, colour)
        assert legend < min(bars)
        assert [bar / bars[1] for bar in bars] == pytest.approx(expected, abs=0.02)
    assert [path.name for path in (tmp_path / "charts").iterdir()] == ["accuracy.png"]


def test_unknown_accuracies_have_no_bar(summaries, tmp_path):
    summaries[0]["acc_jud/world/test_judge/golden/base4"] = None
    accuracy_chart(summaries[0], "world", tmp_path / "accuracy.png")
    image = pixels(tmp_path / "accuracy.png")
    assert (len(lengths(image, BLUE)), len(lengths(image, ORANGE))) == (1 + 4, 1 + 3)


def test_a_summary_without_the_benchmark_is_refused(summaries, tmp_path):
    with pytest.raises(ValueError, match="no accuracy of the benchmark 'psoups'"):
        accuracy_chart(summaries[0], "psoups", tmp_path / "accuracy.png")
    assert not list(tmp_path.iterdir())


def test_training_curves_of_what_was_logged(tmp_path):
    rows = [
        {"step": step, "reward": 0.5 + step / 100, "completions/mean_length": 50.0}
        for step in range(1, 41)
    ]
    rows.append({"step": 40, "train_runtime": 12.0})
    training_chart({"seed 0": rows}, tmp_path / "training.png")
    image = pixels(tmp_path / "training.png")
    line = (image == BLUE).all(axis=2)
    left, right = line[:, : line.shape[1] // 2], line[:, line.shape[1] // 2 :]
    tops = [np.flatnonzero(column).min() for column in left.T if column.any()]
    assert tops[0] - tops[-1] > 100  # the reward rises
    rows_with_length = np.flatnonzero(right.any(axis=1))
    assert np.ptp(rows_with_length) < 10  # the length is flat


def test_metrics_without_a_curve_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no row of the metrics holds any of reward, completions"):
        training_chart({"x": [{"step": 1, "loss": 2.0}]}, tmp_path / "training.png")


def test_bars_of_a_panel_are_means_over_runs(tmp_path):
    panels = {"accuracy": {"one": [20.0, 40.0], "two": [60.0, 60.0], "three": []}}
    bar_panels(panels, tmp_path / "bars.png")
    one, two = lengths(pixels(tmp_path / "bars.png"), BLUE)
    assert two / one == pytest.approx(2, abs=0.03)


def test_many_panels_stand_in_several_rows(tmp_path):
    shapes = []
    for count in (3, 5):
        panels = {f"panel {number}": {"one": [20.0, 40.0]} for number in range(count)}
        bar_panels(panels, tmp_path / "bars.png")
        shapes.append(pixels(tmp_path / "bars.png").shape)
    (height, width, _), (height_of_five, width_of_five, _) = shapes
    assert (height_of_five, width_of_five) == (2 * height, width)


def test_curves_of_a_panel_go_through_means(tmp_path):
    curves = {"falls": {1: [10.0, 12.0], 3: [2.0]}, "rises": {3: [9.0], 1: [3.0], 5: []}}
    curve_panels({"seconds": curves}, "rounds", tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    for colour, direction in ((BLUE, 1), (ORANGE, -1)):
        drawn = (image == colour).all(axis=2)[100:]  # below the legend
        columns = [np.flatnonzero(column).mean() for column in drawn.T if column.any()]
        assert direction * (columns[-8] - columns[8]) > 50

"""Charts of a synthesis draw its figures: measured in the pixels of the PNG."""

import matplotlib.image
import numpy as np
import pytest

from alignxplore_trl.reporting.charts import length_chart, score_chart, share_chart
from alignxplore_trl.reporting.results import Figure

BLUE, ORANGE = (0x3B, 0x6F, 0xB5), (0xE0, 0x8A, 0x3C)


def coloured(path, colour):
    image = np.round(matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    return (image == colour).all(axis=2)


def blocks(mask):
    """The middle in x of each run of rows that holds something, top to bottom."""
    rows = np.flatnonzero(mask.any(axis=1))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [np.flatnonzero(mask[run].any(axis=0)) for run in runs]


def test_dots_and_intervals_stand_where_the_shares_are(tmp_path):
    rounds = [("round 1", Figure(0.2, 0.1, 0.3)), ("round 2", Figure(0.6, 0.5, 0.7))]
    dimensions = [("tone", Figure(None)), (r"$\nothing$", Figure(0.4, 0.3, 0.5))]
    path = tmp_path / "charts" / "acceptance.png"
    share_chart({"by round": rounds, "by dimension": dimensions}, path, "Verified candidates")
    _, first, second = blocks(coloured(path, BLUE))
    _, third = blocks(coloured(path, ORANGE))
    middles = [(block.min() + block.max()) / 2 for block in (first, third, second)]
    assert middles[1] - middles[0] == pytest.approx(middles[2] - middles[1], abs=2)
    # An interval of 0.2, where dots are 0.2 apart.
    for block in (first, second, third):
        assert np.ptp(block) == pytest.approx(middles[1] - middles[0], abs=6)
    assert [each.name for each in path.parent.iterdir()] == ["acceptance.png"]


def test_groups_of_scores_share_their_bins(tmp_path):
    score_chart({"kept": [0.9] * 40, "rejected": [0.1] * 20}, 0.5, tmp_path / "scores.png")
    image = np.round(matplotlib.image.imread(tmp_path / "scores.png")[..., :3] * 255).astype(int)
    # Half of the colour, half of white, as the bars are; lines of the grid shine through.
    heights = []
    for colour in (BLUE, ORANGE):
        near = np.abs(image - (np.array(colour) + 255) / 2).max(axis=2) <= 2
        heights.append(near.sum(axis=0).max())
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.1)


def test_one_score_and_the_threshold_on_it(tmp_path):
    score_chart({"kept": [0.5], "rejected": []}, 0.5, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Verified: none is known"):
        share_chart({"by round": [("round 1", Figure(None))]}, tmp_path / "x.png", "Verified")
    with pytest.raises(ValueError, match="no score"):
        score_chart({"kept": [], "rejected": []}, 0.5, tmp_path / "scores.png")
    assert not list(tmp_path.iterdir())


def test_lengths_of_anything(tmp_path):
    length_chart([("kept", [3, 4])], tmp_path / "a.png", "Tokens of a completion", "Candidates")
    length_chart([("kept", [3, 4])], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()

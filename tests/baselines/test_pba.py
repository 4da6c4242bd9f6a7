"""PBA: means of direction vectors, or of a judge's labels, in words."""

from __future__ import annotations

import msgspec
import pytest

from alignxplore_trl.baselines.pba import Pba, mean_labels, stated_poles
from alignxplore_trl.baselines.protocol import Asked, Setting
from alignxplore_trl.cases import Post
from alignxplore_trl.data.world import WORDINGS
from tests.evaluation.doubles import WordJudge, make_case

DIMENSIONS = [
    {"name": name, "positive": f"likes {name}", "negative": f"dislikes {name}"}
    for name in ("art", "food", "music")
]
POLES = [(own["positive"], own["negative"]) for own in DIMENSIONS]


def describe(method: Pba, *cases: object) -> list[tuple[str, str | None]]:
    asked = Asked(cases, Setting(4))  # type: ignore[arg-type]
    return [(said.case_id, said.description) for said in method.describe(asked)]


def test_direction_vectors_are_averaged_and_no_judge_is_asked() -> None:
    judge = WordJudge()
    vectors = ((1.0, 0.0, 0.5), (1.0, 0.5, 0.5), (0.0, 0.0, 1.0), (), (0.5, 0.5, 0.5))
    case = msgspec.structs.replace(make_case(0, signals=5), vectors=vectors)

    # 0.625, 0.25 and 0.625: the signal without a vector says nothing.
    assert describe(Pba(judge, DIMENSIONS), case) == [
        ("case0", "This user likes art; dislikes food; likes music.")
    ]
    assert judge.asked == []


@pytest.mark.parametrize(
    ("entries", "stated"),
    [
        ((0.6, 0.4, 0.5), ["likes art", "dislikes food"]),
        ((0.55, 0.41, 0.5), ["dislikes food"]),  # All neutral: the farthest from one half.
        ((0.55, 0.45, 0.5), ["likes art", "dislikes food"]),  # And all that are equally far.
        ((0.5, 0.5, None), []),
        ((None, 0.9, 0.59), ["likes food"]),
    ],
)
def test_poles_are_stated_by_the_published_thresholds(
    entries: tuple[float | None, ...], stated: list[str]
) -> None:
    assert stated_poles(entries, POLES) == stated


def test_a_mean_is_over_the_labels_there_are() -> None:
    assert mean_labels([(1.0, None), (0.0, None), (0.5, 1.0)]) == (0.5, 1.0)
    assert mean_labels([(None,)]) == (None,)


def test_a_judge_labels_comparisons_that_have_no_vectors_each_once() -> None:
    judge = WordJudge()
    known = make_case(0, signals=4)
    posts = msgspec.structs.replace(make_case(1), signals=(Post("a", "b"),))
    method = Pba(judge)

    said = describe(method, known, posts)
    again = describe(method, known)

    assert said == again == [("case0", "prefers brief")]  # Nothing is known of posts.
    # Each comparison, under each pole of each of the world's dimensions, in both orders.
    assert len(judge.asked) == 4 * 2 * len(WORDINGS) * 2


def test_a_label_that_a_judge_does_not_give_is_left_out() -> None:
    judge = WordJudge()
    case = make_case(0, signals=2)
    judge.silent = {signal.post for signal in case.signals}  # type: ignore[union-attr]

    assert describe(Pba(judge), case) == []

"""The order of responses, undone; and what a missing answer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from alignxplore_trl.judging.protocol import (
    JudgedPair,
    Preference,
    Verdict,
    preference_probabilities,
    preferences,
)
from alignxplore_trl.text.rendering import Question


@dataclass
class PositionJudge:
    """Prefers the longer response, and A a little more than B; silent on an empty post."""

    bias: float = 0.1
    asked: list[Question] = field(default_factory=list)

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [
            Verdict(self.bias + (0.7 if len(q.response_a) > len(q.response_b) else 0.2), 1.0)
            if q.post
            else None
            for q in questions
        ]


def pair(key: str, post: str = "p") -> JudgedPair:
    return JudgedPair(key, post, "d", chosen="longer reply", rejected="reply")


def test_both_orders_average_out_a_position_bias() -> None:
    judge = PositionJudge()
    [found] = preferences(judge, [pair("a")], "both", seed=0)
    assert found == Preference(
        probability=pytest.approx((0.8 + (1 - 0.3)) / 2), position_gap=pytest.approx(0.8 - 0.7)
    )
    assert {q.response_a for q in judge.asked} == {"longer reply", "reply"}


def test_one_order_shows_no_gap() -> None:
    [found] = preferences(PositionJudge(), [pair("a")], "random", seed=0)
    assert found is not None
    assert found.position_gap is None


def test_random_order_is_a_function_of_seed_and_key() -> None:
    judge = PositionJudge()
    pairs = [pair(str(number)) for number in range(400)]
    first = preference_probabilities(judge, pairs, "random", seed=1)
    again = preference_probabilities(judge, pairs[::-1], "random", seed=1)[::-1]
    other = preference_probabilities(judge, pairs, "random", seed=2)
    assert first == again
    assert first != other
    shown_first = sum(value == pytest.approx(0.8) for value in first)
    assert 150 < shown_first < 250
    assert all(value == pytest.approx(0.8) or value == pytest.approx(0.7) for value in first)


@pytest.mark.parametrize("order", ["random", "both"])
def test_what_is_not_answered_is_none_and_moves_nothing(order: str) -> None:
    pairs = [pair("a"), pair("b", post=""), pair("c")]
    answers = preference_probabilities(PositionJudge(), pairs, order, seed=0)  # type: ignore[arg-type]
    assert answers[1] is None
    assert None not in (answers[0], answers[2])

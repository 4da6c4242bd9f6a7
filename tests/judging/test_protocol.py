"""Orders of the replies, and labelled questions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import JudgedPair, Question, Verdict, preferences
from alignxplore_trl.judging.questions import LABELLED, ask_labelled


class Prefers:
    """Names the longer response with 0.8, and whatever is shown first a little more."""

    def __init__(self, none_for: str = "") -> None:
        self.none_for = none_for
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [
            None
            if own.response_a == self.none_for
            else Verdict(0.9 if len(own.response_a) > len(own.response_b) else 0.3, 1.0)
            for own in questions
        ]


def pair(key: str, description: str | None = "d") -> JudgedPair:
    return JudgedPair(key, "post", description, "long reply", "short")


def test_both_orders_are_averaged_and_an_answer_without_its_twin_is_none() -> None:
    assert preferences(Prefers(), [pair("a")], "both", 0) == [pytest.approx((0.9 + 0.7) / 2)]
    assert preferences(Prefers("short"), [pair("a")], "both", 0) == [None]


def test_a_case_has_one_order_whatever_its_description() -> None:
    """These values are those of earlier runs: a coin that lands elsewhere changes results."""
    first = {
        "world-0-rl-0": False,
        "world-0-rl-1": False,
        "world-0-rl-2": True,
        "world-0-rl-5": True,
    }
    for key, chosen_first in first.items():
        judge = Prefers()
        found = preferences(judge, [pair(key), pair(key, None), pair(key, "other")], "random", 0)
        assert {own.response_a == "long reply" for own in judge.asked} == {chosen_first}
        assert found == [pytest.approx(0.9 if chosen_first else 0.7)] * 3
    asked = Prefers()
    preferences(asked, [pair(f"case {n}") for n in range(400)], "random", 1)
    assert 150 < sum(own.response_a == "long reply" for own in asked.asked) < 250


def test_labelled_questions_are_enough_to_tell_a_judge_from_a_coin() -> None:
    assert len(LABELLED) >= 64
    local = {"prompts": "compact", "dtype": "float32", "chat": False}
    good = ask_labelled(LocalJudge(model="assets/judge", **local))
    assert good.right == len(LABELLED)
    assert good.low > 0.9
    coin = ask_labelled(Prefers())
    assert coin.low < 0.5 < coin.high
    silent = ask_labelled(LocalJudge(model="assets/teacher", **local))
    assert (silent.answered, silent.right) == (0, 0)
    assert "0 of 72 labelled questions right, 0 answered" in str(silent)

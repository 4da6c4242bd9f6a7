"""The reward callable against its definition, and what becomes of missing answers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.text.rendering import Question


class WordJudge:
    """Prefers the response that stands in the description; no answer to a post without text."""

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict | None:
        if not question.post:
            return None
        description = question.description or ""
        a, b = (text in description for text in (question.response_a, question.response_b))
        return Verdict(0.5 + 0.4 * (a - b), 1.0)


CASES: dict[str, list[str]] = {
    "right": [" so; </think> <answer> likes red </answer>"],
    "wrong": [" so; </think> <answer> likes blue </answer>"],
    "tie": [" so; </think> <answer> likes red and blue </answer>"],
    "malformed": [" so; <answer> likes red </answer>"],
}


def rewards_of(completions: Sequence[str], post: str = "p", **options: Any) -> list[float | None]:
    count = len(completions)
    reward = JudgedReward(WordJudge(), order="both", seed=0)
    return reward(
        completions=completions,
        prompts=["…"] * count,
        case_id=[str(i) for i in range(count)],
        post=[post] * count,
        chosen=["red"] * count,
        rejected=["blue"] * count,
        **options,
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("right", 1.0), ("wrong", 0.0), ("tie", 0.0), ("malformed", 0.0)]
)
def test_is_one_only_where_the_right_reply_is_preferred(name: str, expected: float) -> None:
    assert rewards_of(CASES[name]) == [expected]


def test_a_silent_judge_gives_none_but_a_malformed_completion_still_zero() -> None:
    assert rewards_of([*CASES["right"], *CASES["malformed"]], post="") == [None, 0.0]


def test_components_are_logged_and_their_keys_do_not_depend_on_the_batch() -> None:
    logged: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    completions = [text for texts in CASES.values() for text in texts]
    rewards_of(completions, log_metric=logged.__setitem__, log_extra=extra.__setitem__)
    assert logged["format/well_formed"] == 0.75
    assert logged["format/think_not_closed"] == 0.25
    assert logged["judge/failed_share"] == 0.0
    assert logged["judge/probability_of_chosen"] == pytest.approx((0.9 + 0.1 + 0.5) / 3)
    assert extra["probability_of_chosen"] == pytest.approx([0.9, 0.1, 0.5, None])
    other: dict[str, float] = {}
    rewards_of(CASES["right"], log_metric=other.__setitem__)
    assert set(other) == set(logged)


def test_failures_of_the_judge_are_a_share_of_what_was_asked() -> None:
    logged: dict[str, float] = {}
    rewards_of(CASES["right"] * 3, post="", log_metric=logged.__setitem__)
    assert logged["judge/failed_share"] == 1.0
    assert "judge/probability_of_chosen" not in logged


def test_can_be_pickled_and_has_a_name_of_its_own() -> None:
    reward = pickle.loads(pickle.dumps(JudgedReward(WordJudge(), "both", 0)))
    assert reward.__name__ == "judged"

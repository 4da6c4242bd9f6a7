"""The reward callable against its definition, and what becomes of missing answers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.panel import Panel
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.rewards.described import BatchCounts
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.rewards.shaping import Shaping
from alignxplore_trl.text.rendering import Question


class WordJudge:
    """Prefers the response that stands in the description; no answer to a post without text."""

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [self._verdict(question) for question in questions]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=7)

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


def rewards_of(
    completions: Sequence[str],
    post: str = "p",
    reward: JudgedReward | None = None,
    **options: Any,
) -> list[float | None]:
    count = len(completions)
    reward = reward or JudgedReward(WordJudge(), order="both", seed=0)
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


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("win", [1.0, 0.0, 0.0, 0.0]),
        ("probability", [0.9, 0.1, 0.5, 0.0]),
        ("margin", [0.8, -0.8, 0.0, -1.0]),
    ],
)
def test_scores_of_right_wrong_tied_and_malformed(score: Any, expected: list[float]) -> None:
    reward = JudgedReward(WordJudge(), "both", 0, score=score)
    completions = [text for texts in CASES.values() for text in texts]
    assert rewards_of(completions, reward=reward) == pytest.approx(expected)
    assert rewards_of(CASES["right"], post="", reward=reward) == [None]


@dataclass
class SureJudge:
    """Thinks of every pair that the reply `red` is the better one, with one probability."""

    probability: float

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [
            Verdict(self.probability if q.response_a == "red" else 1 - self.probability, 1.0)
            for q in questions
        ]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=1)


shapings = st.builds(Shaping, length_weight=st.floats(0, 1), largest_penalty=st.floats(0, 0.99))


@given(st.floats(0, 1), st.sampled_from(["win", "probability", "margin"]), shapings)
def test_a_malformed_completion_never_beats_a_well_formed_one(
    probability: float, score: Any, shaping: Shaping
) -> None:
    reward = JudgedReward(SureJudge(probability), "both", 0, score=score, shaping=shaping)
    well_formed, malformed = rewards_of([*CASES["wrong"], *CASES["malformed"]], reward=reward)
    assert well_formed is not None
    assert malformed is not None
    assert malformed <= well_formed
    least, most = (-1.0, 1.0) if score == "margin" else (0.0, 1.0)
    assert least <= well_formed <= most
    assert malformed == least


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["win", "probability", "margin"]))
def test_a_long_right_answer_beats_a_short_wrong_one(one: float, two: float, score: Any) -> None:
    shaping = Shaping(word_limit=1, length_weight=1.0, largest_penalty=0.9)
    right, wrong = max(one, two), min(one, two)
    if not wrong <= 0.5 < right - 1e-6:
        return
    long = [" so </think> <answer> likes red and much more of it </answer>"]
    short = [" so </think> <answer> red </answer>"]
    [shaped_right] = rewards_of(
        long, reward=JudgedReward(SureJudge(right), "both", 0, score=score, shaping=shaping)
    )
    [shaped_wrong] = rewards_of(
        short, reward=JudgedReward(SureJudge(wrong), "both", 0, score=score, shaping=shaping)
    )
    assert shaped_right is not None
    assert shaped_wrong is not None
    assert shaped_wrong < shaped_right


def test_a_panel_rewards_what_all_of_it_prefer() -> None:
    judges = [WordJudge(), SureJudge(0.7)]
    everyone = JudgedReward(Panel(judges, "all"), "both", 0)
    together = JudgedReward(Panel(judges, "mean"), "both", 0, score="probability")
    completions = [text for texts in CASES.values() for text in texts]
    assert rewards_of(completions, reward=everyone) == [1.0, 0.0, 0.0, 0.0]
    assert rewards_of(completions, reward=together) == pytest.approx([0.8, 0.4, 0.6, 0.0])
    assert everyone.take_measurements().questions == 8


class FirstJudge(WordJudge):
    """Names A with 0.9, whatever it says."""

    def _verdict(self, question: Question) -> Verdict | None:
        return Verdict(0.9, 1.0) if question.post else None


@pytest.mark.parametrize(("order", "gaps"), [("both", [0.8, 0.8]), ("random", [])])
def test_a_preference_for_a_position_is_measured(order: Any, gaps: list[float]) -> None:
    reward = JudgedReward(FirstJudge(), order, 0)
    rewards_of(CASES["right"] * 2, reward=reward)
    assert reward.take_measurements().position_gaps == pytest.approx(gaps)
    assert reward.take_measurements().position_gaps == []


def test_keys_are_the_same_whatever_happened_but_for_means_of_nothing() -> None:
    logs: list[dict[str, float]] = []
    for completions, post in (
        (CASES["right"], "p"), (CASES["right"], ""), (CASES["malformed"], "p")
    ):  # fmt: skip
        logs.append({})
        rewards_of(completions, post=post, log_metric=logs[-1].__setitem__)
    answered, silent, malformed = (set(logged) for logged in logs)
    assert answered - silent == {"judge/probability_of_chosen"}
    assert {"judge/failed_share", "reward/seconds", "format/well_formed"} <= malformed
    described = {key for key in silent if key.startswith("description/")}
    assert len(described) == 4
    assert silent - malformed == described


def test_the_trainer_is_told_of_what_could_not_be_scored() -> None:
    reward = JudgedReward(WordJudge(), "both", 0)
    rewards_of([*CASES["right"] * 2, *CASES["malformed"]], post="", reward=reward)
    assert reward.last_batch == BatchCounts(completions=3, well_formed=2, unanswered=2)
    rewards_of(CASES["right"], reward=reward)
    assert reward.last_batch == BatchCounts(completions=1, well_formed=1, unanswered=0)
    assert reward.take_measurements().questions == 7


def test_what_descriptions_give_away_is_logged() -> None:
    logged: dict[str, float] = {}
    reward = JudgedReward(
        WordJudge(),
        "both",
        0,
        shaping=Shaping(word_limit=2, length_weight=0.1),
        opposites={"red": "blue", "blue": "red"},
    )
    found = rewards_of(
        [" so </think> <answer> likes red, Response A </answer>", *CASES["tie"]],
        reward=reward,
        log_metric=logged.__setitem__,
    )
    assert found == [pytest.approx(0.8), 0.0]
    assert logged["description/names_response"] == 0.5
    assert logged["description/contradicts_itself"] == 0.5
    assert logged["description/penalty"] == pytest.approx(0.2)

"""Verdicts are the reward's own, asked for once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.synthesis.answers import TeacherAnswers, Verified
from alignxplore_trl.synthesis.verification import Verifier
from tests.synthesis.teaching import TruthJudge

CASES = World(0).cases("cold_start", 4)
RIGHT = [f" r </think> <answer> {case.description} </answer>" for case in CASES]
WRONG = [" r </think> <answer> prefers nothing </answer>"] * len(CASES)
MALFORMED = [" r </think> <answer> prefers nothing"] * len(CASES)


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[TeacherAnswers]:
    answers = TeacherAnswers(tmp_path / "answers.sqlite")
    yield answers
    answers.close()


def verifier(answers: TeacherAnswers, judge: TruthJudge, identity: str = "judge") -> Verifier:
    return Verifier(JudgedReward(judge, "both", seed=0), identity, answers)


def test_verdicts_are_those_of_the_reward(answers: TeacherAnswers) -> None:
    cases, completions = CASES * 3, RIGHT + WRONG + MALFORMED
    judge = TruthJudge(CASES)
    targets = [case.target for case in cases]
    rewards = JudgedReward(judge, "both", seed=0)(
        completions=completions,
        case_id=[case.case_id for case in cases],
        post=[target.post for target in targets],
        chosen=[target.chosen for target in targets],
        rejected=[target.rejected for target in targets],
    )
    found = verifier(answers, judge).verify(cases, completions)
    assert [own and own.reward for own in found[:8]] == rewards[:8] == [1.0] * 4 + [0.0] * 4
    assert found[8:] == [None] * 4
    assert found[0] == Verified(0.9, 1.0)


def test_each_is_asked_about_once_over_runs(answers: TeacherAnswers) -> None:
    judge = TruthJudge(CASES)
    first = verifier(answers, judge).verify(CASES, RIGHT)
    asked = judge.asked
    assert asked == 2 * len(CASES)  # In both orders.
    again = verifier(answers, judge).verify(CASES * 2, RIGHT + WRONG)
    assert again[:4] == first
    assert judge.asked == 2 * asked
    # The reasoning is nothing that a verdict depends on.
    other = [completion.replace(" r ", " s ") for completion in RIGHT]
    assert verifier(answers, judge).verify(CASES, other) == first
    assert judge.asked == 2 * asked


def test_another_judge_is_asked(answers: TeacherAnswers) -> None:
    judge = TruthJudge(CASES)
    verifier(answers, judge).verify(CASES, RIGHT)
    asked = judge.asked
    verifier(answers, judge, "another judge").verify(CASES, RIGHT)
    assert judge.asked == 2 * asked


def test_a_description_is_asked_about_for_each_case(answers: TeacherAnswers) -> None:
    judge = TruthJudge(CASES)
    completions = [RIGHT[0]] * len(CASES)
    found = verifier(answers, judge).verify(CASES, completions)
    assert found == [
        verifier(answers, judge, case.case_id).verify([case], [RIGHT[0]])[0] for case in CASES
    ]


def test_what_the_judge_does_not_answer_is_not_kept(answers: TeacherAnswers) -> None:
    silent = TruthJudge(CASES, silent_about=CASES[1].case_id)
    found = verifier(answers, silent).verify(CASES, RIGHT)
    assert [own is None for own in found] == [False, True, False, False]
    judge = TruthJudge(CASES)
    assert None not in verifier(answers, judge).verify(CASES, RIGHT)
    assert judge.asked == 2


def test_nothing_well_formed_asks_nobody(answers: TeacherAnswers) -> None:
    judge = TruthJudge(CASES)
    assert verifier(answers, judge).verify(CASES, MALFORMED) == [None] * len(CASES)
    assert verifier(answers, judge).verify([], []) == []
    assert judge.asked == 0

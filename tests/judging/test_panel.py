"""Several judges: what they think together, against the formula, and who can overrule whom."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import OPPOSITE, World, describe
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.panel import Panel
from alignxplore_trl.judging.protocol import (
    JudgedPair,
    Preference,
    Verdict,
    preference_probabilities,
)
from alignxplore_trl.text.rendering import PromptSet, Question

ASSETS = Path(__file__).parents[2] / "assets"
PAIR = JudgedPair("key", "p", "d", chosen="chosen", rejected="rejected")


@dataclass
class FixedJudge:
    """Names A with one probability where the chosen reply is A, and with another where it is B."""

    chosen_first: float | None
    chosen_second: float | None

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        named = [
            self.chosen_first if question.response_a == "chosen" else self.chosen_second
            for question in questions
        ]
        return [None if p is None else Verdict(p, 1.0) for p in named]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=1, latencies=[self.chosen_first or 0.0])


probabilities = st.floats(0, 1)


@given(st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=4))
def test_is_the_mean_or_the_least_of_what_each_judge_thinks_alone(
    named: list[tuple[float, float]],
) -> None:
    judges = [FixedJudge(first, second) for first, second in named]
    alone = [(first + 1 - second) / 2 for first, second in named]
    gap = sum(abs(first - (1 - second)) for first, second in named) / len(named)
    [mean] = Panel(judges, "mean").preferences([PAIR], "both", seed=0)
    [least] = Panel(judges, "all").preferences([PAIR], "both", seed=0)
    assert mean == Preference(pytest.approx(sum(alone) / len(alone)), pytest.approx(gap))
    assert least == Preference(pytest.approx(min(alone)), pytest.approx(gap))


@given(st.lists(probabilities, min_size=1, max_size=4), st.integers(0, 3))
def test_all_is_a_win_only_if_each_judge_says_so(named: list[float], seed: int) -> None:
    judges = [FixedJudge(p, 1 - p) for p in named]
    [least] = Panel(judges, "all").preferences([PAIR], "random", seed)
    each = [preference_probabilities(judge, [PAIR], "random", seed)[0] for judge in judges]
    assert least is not None
    assert least.position_gap is None
    assert (least.probability > 0.5) == all(p is not None and p > 0.5 for p in each)


def test_a_judge_that_is_won_in_one_order_only_does_not_agree() -> None:
    """Combined order by order, 0.51 and a disagreement of 0.5 would be a win."""
    fickle, firm = FixedJudge(0.51, 0.9), FixedJudge(0.9, 0.1)
    [found] = Panel([fickle, firm], "all").preferences([PAIR], "both", seed=0)
    assert found is not None
    assert found.probability == pytest.approx(0.305)


@pytest.mark.parametrize("agreement", ["mean", "all"])
def test_one_missing_answer_is_none(agreement: str) -> None:
    panel = Panel([FixedJudge(0.1, 0.9), FixedJudge(None, 0.5)], agreement)  # type: ignore[arg-type]
    assert panel.preferences([PAIR], "both", seed=0) == [None]


def test_measurements_of_all_judges_are_added() -> None:
    panel = Panel([FixedJudge(0.1, 0.9), FixedJudge(0.2, 0.5)], "mean")
    measured = panel.take_measurements()
    assert (measured.questions, measured.latencies) == (2, [0.1, 0.2])


def test_a_panel_has_judges_and_can_be_pickled() -> None:
    panel = pickle.loads(pickle.dumps(Panel([FixedJudge(0.8, 0.2)], "all")))
    assert panel.preferences([PAIR], "both", seed=0) == [
        Preference(pytest.approx(0.8), pytest.approx(0.0))
    ]
    with pytest.raises(ValueError, match="judges"):
        Panel([], "mean")


def test_the_shipped_judges_agree_on_the_truth_and_less_on_contradictions(
    prompts: PromptSet,
) -> None:
    """A description with both poles of every dimension wins by chance; seldom with both judges."""
    judges = [
        LocalJudge.from_folder(ASSETS / name, prompts, dtype="float32", max_batch_tokens=16384)
        for name in ("judge", "test_judge")
    ]
    cases = World(seed=0).cases("test", 120)

    def wins(asked: Sequence[LocalJudge], contradictory: bool) -> float:
        pairs = []
        for case in cases:
            poles = list((case.directions or {}).values())
            both = [side for pole in poles for side in (pole, OPPOSITE[pole])]
            described = describe(both if contradictory else poles)
            target = case.target
            pairs.append(
                JudgedPair(case.case_id, target.post, described, target.chosen, target.rejected)
            )
        found = Panel(asked, "all").preferences(pairs, "both", seed=0)
        return sum(own is not None and own.probability > 0.5 for own in found) / len(found)

    assert wins(judges, contradictory=False) > 0.95
    assert wins(judges, contradictory=True) < min(wins([one], contradictory=True) for one in judges)

"""PBA against its formula, and in the simulated world with the judge that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.baselines.pba import Pba, mean_labels, stated_poles
from alignxplore_trl.data.alignx import Dimension, compose_description
from alignxplore_trl.data.world import POLE_OF_WORDING, World
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair, Verdict, preference_probabilities
from alignxplore_trl.signals import Attributes, Comparison, Post
from alignxplore_trl.text.rendering import PromptSet, Question

ROOT = Path(__file__).parents[2]
DIMENSIONS = [Dimension("length", "is brief", "is long"), Dimension("tone", "is warm", "is cold")]
CASE = World(seed=0).case("test", 0)


class WordingJudge:
    """Follows the wordings of the described pole, and leans towards the first reply."""

    def __init__(self, silent_about: str | None = None) -> None:
        self.silent_about = silent_about
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [self._verdict(question) for question in questions]

    def take_measurements(self) -> Measurements:
        return Measurements()

    def _verdict(self, question: Question) -> Verdict | None:
        assert question.description is not None
        pole = question.description.removeprefix("prefers ")
        if pole == self.silent_about:
            return None
        in_a, in_b = (
            any(POLE_OF_WORDING[word] == pole for word in text.split(", "))
            for text in (question.response_a, question.response_b)
        )
        return Verdict(0.55 + 0.3 * (in_a - in_b), 1.0)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=9))
def test_entries_are_means_over_choices(labels: list[list[float]]) -> None:
    found = mean_labels([tuple(each) for each in labels])
    assert np.allclose(np.array(found, dtype=float), np.mean(labels, axis=0))


def test_labels_that_are_missing_do_not_count() -> None:
    assert mean_labels([(1.0, None), (0.5, None), (None, None)]) == (0.75, None)


@pytest.mark.parametrize(
    ("entries", "poles"),
    [
        ((0.6, 0.4), ["is brief", "is cold"]),
        ((0.59, 0.9), ["is warm"]),
        ((0.1, 0.55), ["is long"]),
        ((0.45, 0.58), ["is warm"]),
        ((0.55, 0.45), ["is brief", "is cold"]),
        ((0.5, 0.41), ["is cold"]),
        ((0.5, 0.5), []),
        ((None, 0.41), ["is cold"]),
        ((None, None), []),
    ],
)
def test_poles_are_stated_from_the_thresholds_on_or_the_farthest(
    entries: tuple[float | None, ...], poles: list[str]
) -> None:
    assert stated_poles(entries, DIMENSIONS) == poles


def test_a_label_averages_both_poles_and_both_orders() -> None:
    choice = Comparison("fixing bikes alone", "tldr, definitely", "moreover, hey")
    judge = WordingJudge()
    pba = Pba.of_world(judge)
    (said,) = pba.describe([replace(CASE, signals=(choice,))])
    # Asked in both orders, the lean towards the first reply cancels: 0.5 ± 0.3 under each pole.
    # "hey" is casual and was rejected: 0.5 under formal, 0.2 under casual, (0.5 + 1 - 0.2) / 2.
    assert said.description == "prefers brief, formal, confident"
    assert len(judge.asked) == 12 * 2 * 2
    assert {question.description for question in judge.asked} >= {"prefers brief", "prefers formal"}


def test_a_choice_is_labelled_once_whatever_shows_it() -> None:
    judge = WordingJudge()
    pba = Pba.of_world(judge)
    shorter = replace(CASE, signals=CASE.signals[:4])
    pba.describe([shorter, CASE])
    pba.describe([shorter])
    assert len(judge.asked) == len(set(judge.asked)) == 8 * 12 * 2 * 2


def test_what_cannot_be_labelled_is_counted() -> None:
    post = Post("fixing bikes alone", "tldr")
    mixed = replace(CASE, case_id="mixed", signals=(post, *CASE.signals[:2]))
    silent = replace(CASE, case_id="silent", signals=(post, Attributes("a baker")))
    pba = Pba.of_world(WordingJudge(silent_about="brief"))
    assert [said.case_id for said in pba.describe([mixed, silent])] == ["mixed"]
    assert pba.counts == {"signals_not_compared": 3, "cases_left_out": 1, "labels_unanswered": 2}


def test_the_words_suit_the_dimensions() -> None:
    pba = Pba(WordingJudge(), DIMENSIONS)
    (said,) = pba.describe([CASE])
    # No wording says anything about these poles.
    assert said.description is None
    assert compose_description(["is brief", "is cold"]) == "This user is brief; is cold."


@pytest.mark.slow
@pytest.mark.parametrize("signals", [4, 8])
def test_one_dimension_is_recovered_from_the_shipped_judge(signals: int) -> None:
    judge = LocalJudge.from_folder(
        ROOT / "assets" / "judge", PromptSet("compact"), dtype="float32", max_batch_tokens=16384
    )
    cases = World(seed=0, dimensions_per_user=1, signals_per_user=signals).cases("test", 50)
    described = Pba.of_world(judge).describe(cases)
    pairs = [
        JudgedPair(
            case.case_id,
            case.target.post,
            said.description,
            case.target.chosen,
            case.target.rejected,
        )
        for case, said in zip(cases, described, strict=True)
    ]
    probabilities = preference_probabilities(judge, pairs, "both", seed=0)
    assert np.mean([probability > 0.5 for probability in probabilities]) > 0.9

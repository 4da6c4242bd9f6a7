"""The rows of training: order, contents and counts."""

import json
from dataclasses import asdict
from functools import partial

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.rounds import round_rows
from alignxplore_trl.data.world import World
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import (
    Attributes,
    Comparison,
    PreferenceCase,
    rounds_of_signals,
    signal_from_dict,
)
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.rendering import PromptSet

PROMPTS = PromptSet("compact")
fit = partial(fit_prompt, PROMPTS.inference, count_tokens=len, max_tokens=10_000)


def case_with(signals: int, name: str = "c") -> PreferenceCase:
    return PreferenceCase(
        name,
        "u",
        tuple(Attributes(f"{name} fact {number}") for number in range(signals)),
        Comparison("post", "yes", "no"),
    )


@settings(max_examples=60)
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 5), st.integers(1, 4))
def test_each_case_has_its_whole_rounds_in_order(numbers_of_signals, per_round, rounds):
    cases = [case_with(count, f"case-{n}") for n, count in enumerate(numbers_of_signals)]
    laid_out = round_rows(cases, per_round, rounds, fit)
    expected = [
        (case.case_id, number, signals)
        for case in cases
        for number, signals in enumerate(rounds_of_signals(case, per_round, rounds), 1)
    ]
    found = [
        (row.case_id, row.round, tuple(map(signal_from_dict, json.loads(row.signals))))
        for row in laid_out.rows
    ]
    assert found == expected
    assert laid_out.counts["cases"] == len(cases)
    assert laid_out.counts["rows"] == len(expected)
    for number in range(1, rounds + 1):
        without = sum(len(case.signals) < number * per_round for case in cases)
        assert laid_out.counts.get(f"cases_without_round/{number}", 0) == without


def test_a_row_holds_the_prompt_and_the_target_and_survives_a_dataset():
    (case,) = World(seed=0).cases("rl", 1)
    rows = round_rows([case], 4, 2, fit).rows
    assert [row.round for row in rows] == [1, 2]
    assert rows[0].prompt == PROMPTS.inference(case.signals[:4], None)
    assert rows[1].prompt == PROMPTS.inference(case.signals[4:8], None)
    for row in rows:
        assert (row.case_id, row.user_id) == (case.case_id, case.user_id)
        assert Comparison(row.post, row.chosen, row.rejected) == case.target
    assert Dataset.from_list([asdict(row) for row in rows]).to_list() == [asdict(r) for r in rows]


def test_the_target_stands_in_no_prompt():
    for case in World(seed=0).cases("rl", 30):
        for row in round_rows([case], 4, 2, fit).rows:
            assert case.target.post not in row.prompt


def test_what_the_budget_takes_is_counted():
    left_out = [FittedPrompt("a"), FittedPrompt("b", 2, 0), FittedPrompt("c", 3, 2)]
    fitted = iter(left_out)
    counts = round_rows([case_with(12)], 4, 3, lambda signals, earlier: next(fitted)).counts
    assert counts == {
        "cases": 1, "rows": 3, "dropped_signals": 5, "prompts_with_dropped_signals": 2,
        "shortened_texts": 2, "prompts_with_shortened_texts": 1,
    }  # fmt: skip


def test_a_budget_too_small_for_the_instruction_names_its_key():
    small = partial(fit_prompt, PROMPTS.inference, count_tokens=len, max_tokens=5)
    with pytest.raises(UserError, match=r"prompts\.max_prompt_tokens: .* case c in round 1"):
        round_rows([case_with(4)], 4, 1, small)

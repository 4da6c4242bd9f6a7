"""Cases laid out by round, with what is missing counted."""

import pytest

from alignxplore_trl.cases import Attributes, Case, Comparison, decode_signals
from alignxplore_trl.data.rounds import round_rows
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError

TARGET = Comparison("post", "good", "bad")


def case(name, signals):
    return Case(
        name, f"user-{name}", tuple(Attributes(f"{name}{n}") for n in range(signals)), TARGET
    )


def fit(signals, earlier):
    assert earlier is None
    words = [signal.text for signal in signals]
    return FittedPrompt(" ".join(words[-1:]), dropped_signals=len(words) - 1, shortened_texts=0)


def test_each_case_has_its_rounds_in_order():
    found = round_rows([case("a", 5), case("b", 3), case("c", 1)], 2, 2, fit)
    assert [(row["case_id"], row["round"]) for row in found.rows] == [("a", 1), ("a", 2), ("b", 1)]
    assert decode_signals(found.rows[1]["signals"]) == (Attributes("a2"), Attributes("a3"))
    expected = {"prompt": "a1", "case_id": "a", "user_id": "user-a", "round": 1}
    expected |= {"post": "post", "chosen": "good", "rejected": "bad"}
    assert found.rows[0].items() >= expected.items()
    assert found.counts == {
        "cases": 3, "rows": 3, "cases_without_round/1": 1, "cases_without_round/2": 2,
        "prompts_with_dropped_signals": 3, "dropped_signals": 3,
        "prompts_with_shortened_texts": 0, "shortened_texts": 0,
    }  # fmt: skip


def test_an_instruction_above_the_budget_names_the_case_and_the_key():
    def too_long(signals, earlier):
        raise PromptTooLongError("900 tokens")

    with pytest.raises(UserError, match=r"prompts\.max_tokens: case a, round 1: 900 tokens"):
        round_rows([case("a", 2)], 2, 1, too_long)

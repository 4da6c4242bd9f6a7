"""Cases laid out by round, with what is missing counted."""

from alignxplore_trl.cases import Attributes, Case, Comparison, decode_signals
from alignxplore_trl.data.rounds import round_rows
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts

TARGET = Comparison("post", "good", "bad")


def case(name, signals):
    return Case(
        name, f"user-{name}", tuple(Attributes(f"{name}{n}") for n in range(signals)), TARGET
    )


# A token is a character: room for one signal of two characters.
BUDGET = PromptBudget(Prompts("compact"), lambda text: {"input_ids": text}, 24)


def test_each_case_has_its_rounds_in_order():
    found = round_rows([case("a", 5), case("b", 3), case("c", 1)], 2, 2, BUDGET)
    assert [(row["case_id"], row["round"]) for row in found.rows] == [("a", 1), ("a", 2), ("b", 1)]
    assert decode_signals(found.rows[1]["signals"]) == (Attributes("a2"), Attributes("a3"))
    expected = {"prompt": "<attributes> a1<think>", "case_id": "a", "user_id": "user-a", "round": 1}
    expected |= {"post": "post", "chosen": "good", "rejected": "bad"}
    assert found.rows[0].items() >= expected.items()
    assert found.counts == {
        "cases": 3, "rows": 3, "cases_without_round/1": 1, "cases_without_round/2": 2,
        "prompts_with_dropped_signals": 3, "dropped_signals": 3,
        "prompts_with_shortened_texts": 0, "shortened_texts": 0,
    }  # fmt: skip

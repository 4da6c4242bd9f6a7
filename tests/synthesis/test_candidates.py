"""Which completions become examples, what later rounds start from, and what is asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from alignxplore_trl.cases import Case, Comparison, Post
from alignxplore_trl.inference.writers import Arrived, Ask, Writer, Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.candidates import Synthesis, draw_unverified
from alignxplore_trl.synthesis.kept import Kept
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts

# What the teacher writes for samples 0 to 3, and what the reward says of it.
SAID = ("right", "wrong", "unjudged", None)
REWARDS = {"right": 1.0, "wrong": 0.0, "unjudged": None}


class Scripted(Writer):
    """Writes by a function of prompt and number; `None` is no answer."""

    def __init__(self, say: Callable[[str, int], str | None]) -> None:
        super().__init__(chat=False, temperature=1.0, top_p=1.0, top_k=None, max_new_tokens=9)
        self.say, self.asked = say, list[Ask]()

    def load(self) -> None:
        """Nothing to load."""

    def write_each(self, asks: Sequence[Ask], seed: int, arrived: Arrived) -> None:
        self.asked += asks
        texts = [self.say(*ask) for ask in asks]
        arrived({n: Written(text, 3, 2) for n, text in enumerate(texts) if text is not None})


def say(prompt: str, number: int) -> str | None:
    text = SAID[number]
    return text and f" r </think> <answer> {text} </answer>"


def reward(
    *, completions: Sequence[str], case_id: Sequence[str], **columns: Any
) -> list[float | None]:
    """Given all columns of a dataset, one of each completion."""
    assert all(len(own) == len(completions) for own in columns.values())
    assert set(columns) == {"prompts", "post", "chosen", "rejected"}
    return [REWARDS[text.split("<answer>")[1].split()[0]] for text in completions]


def case(name: str, signals: int = 4) -> Case:
    pairs = [Comparison(f"p{name}{n}", f"c{n}", f"r{n}") for n in range(signals)]
    return Case(name, name, tuple(pairs), Comparison("x", "y", "z"), {"warmth": "warm"})


def synthesis(tmp_path: Path, writer: Writer, **settings: Any) -> Synthesis:
    given: dict[str, Any] = {"candidates": 4, "dimensions": "known", "signals": 2, "rounds": 2}
    given |= {"seed": 0} | settings
    budget = PromptBudget(Prompts("compact"), words, given.pop("max_tokens", 200))
    return Synthesis(writer, reward, budget, Kept(tmp_path / "answers.jsonl"), **given)


def words(text: str) -> dict[str, list[str]]:
    """A tokenizer."""
    return {"input_ids": text.split()}


CASES = [case("a"), case("b"), case("short", 3)]


def test_only_reward_1_makes_an_example_and_each_other_candidate_says_why(tmp_path: Path) -> None:
    own = synthesis(tmp_path, Scripted(say), rounds=1)
    found = own.run(CASES)
    became = ["verified", "rejected", "not_judged", "unanswered"]
    assert [each.became for each in found[:4]] == became
    assert own.counts["round_1/verified"] == own.counts["round_1/unanswered"] == 3
    assert own.counts["round_1/prompt_tokens"] == 9 * 3
    assert own.counts["round_1/cases_with_one_verified"] == 3
    example = found[0].example()
    assert example["completion"] == " r </think> <answer> right </answer>"
    # The student's prompt knows nothing of the dimensions that guided the teacher.
    assert "warmth" not in example["prompt"]
    assert example["prompt"].endswith("<think>")
    assert found[0].row()["dimensions"] == ("warmth",)


def test_a_malformed_completion_has_reward_0_and_is_not_judged(tmp_path: Path) -> None:
    found = synthesis(tmp_path, Scripted(lambda prompt, number: "no form"), rounds=1).run(CASES)
    assert {(each.became, each.reward) for each in found} == {("malformed/think_not_closed", 0.0)}


def test_later_rounds_read_other_signals_and_a_well_formed_description_right_or_wrong(
    tmp_path: Path,
) -> None:
    cases = [case(str(n)) for n in range(60)]
    own = synthesis(tmp_path, Scripted(say))
    second = [each for each in own.run([*cases, case("short", 3)]) if each.round == 2]
    assert len(second) == 60 * 4
    for each in second:
        assert f"<earlier> {each.earlier}" in each.prompt
        assert f"p{each.case_id}2" in each.prompt
        assert f"p{each.case_id}1" not in each.prompt
    drawn = [each.earlier for each in second[::4]]
    assert all(10 <= drawn.count(name) <= 30 for name in ("right", "wrong", "unjudged"))
    assert own.counts["round_2/cases_without_signals"] == 1


def test_the_control_has_as_many_of_each_round_and_rejected_ones_among_them(tmp_path: Path) -> None:
    found = synthesis(tmp_path, Scripted(say)).run([case(str(n)) for n in range(60)])
    verified = [each for each in found if each.reward == 1]
    control = draw_unverified(found, 0)

    of_rounds = [Counter(each.round for each in some) for some in (verified, control)]
    assert of_rounds == [{1: 60, 2: 60}] * 2
    assert {each.became for each in control} == {"verified", "rejected", "not_judged"}
    assert draw_unverified(found, 0) == control != draw_unverified(found, 1)


@pytest.mark.parametrize("guidance", ["known", "teacher", "none"])
def test_where_the_names_of_dimensions_come_from(tmp_path: Path, guidance: str) -> None:
    def name(prompt: str, number: int) -> str | None:
        single = prompt.count("<post>") == 1
        return 'hm </think> ["order"]' if single else say(prompt, number)

    teacher = Scripted(name)
    prompts = Prompts("compact")
    found = synthesis(tmp_path, teacher, dimensions=guidance, rounds=1).run(CASES)
    names = {"known": ("warmth",), "teacher": ("order",), "none": ()}[guidance]
    assert {each.dimensions for each in found} == {names}
    guided = prompts.render(
        "teacher", signals=CASES[0].signals[:2], earlier=None, dimensions=list(names)
    )
    assert (guided, 3) in teacher.asked
    assert len(teacher.asked) == 12 + (6 if guidance == "teacher" else 0)


def test_the_same_command_asks_again_only_for_what_had_no_answer(tmp_path: Path) -> None:
    cases = [*CASES, replace(CASES[0], case_id="twin")]
    first = synthesis(tmp_path, Scripted(say), rounds=1).run(cases)
    teacher = Scripted(say)
    assert synthesis(tmp_path, teacher, rounds=1).run(cases) == first
    # The last sample of each prompt; equal prompts are asked once.
    assert {number for _, number in teacher.asked} == {3}
    assert len(teacher.asked) == len(set(teacher.asked)) == 3


def test_half_a_line_of_a_killed_process_is_dropped_and_a_damaged_one_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "kept"
    Kept(path).keep({"a": 1, "b": 2})
    path.write_bytes(path.read_bytes() + b'{"c": 3')
    kept = Kept(path)
    assert (kept.find("a"), kept.find("c")) == (1, None)
    kept.keep({"d": 4})
    assert Kept(path).find("d") == 4
    path.write_bytes(b"rubbish\n" + path.read_bytes())
    with pytest.raises(UserError, match="line 1: damaged"):
        Kept(path)


def test_a_prompt_that_cannot_be_made_to_fit_is_said_and_lost_signals_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [Post("p " * 60, "c " * 60)] * 2
    cases = [Case(str(n), str(n), tuple(long), CASES[0].target) for n in range(3)]
    own = synthesis(tmp_path, Scripted(say), rounds=1, max_tokens=150)
    own.run(cases)
    assert own.counts["round_1/prompts_with_dropped_signals"] == 3
    assert "3 of 3 prompts lost signals" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"prompts\.max_tokens is 10; raise it"):
        synthesis(tmp_path, Scripted(say), rounds=1, max_tokens=10).run(cases)

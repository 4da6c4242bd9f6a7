"""LMInductReason: rules that are proposed, tried on the user's choices, and refined."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from alignxplore_trl.baselines.lm_induct_reason import LMInductReason
from alignxplore_trl.baselines.protocol import Asked, Said, Setting
from alignxplore_trl.cases import Case, Post
from tests.evaluation.doubles import ScriptedWriter, WordJudge, make_case

CASE = make_case(0, signals=4)


def induct(
    script: Callable[[str], str | None], case: Case = CASE, **settings: int
) -> tuple[list[Said], ScriptedWriter, WordJudge]:
    writer, judge = ScriptedWriter(script=script), WordJudge()
    method = LMInductReason(writer, judge, "default", 2000, "assets/backbone", **settings)
    said = method.describe(Asked([case], Setting(4)))
    return said, writer, judge


def test_a_rule_that_agrees_with_all_choices_ends_the_search() -> None:
    rules = iter(["detailed", "brief", "brief", "<answer>", "funny"])

    said, writer, judge = induct(lambda _: f"<answer> prefers {next(rules)} </answer>")

    assert [(own.description, own.problem) for own in said] == [("prefers brief", None)]
    assert len(writer.prompts) == 5
    assert len(judge.asked) == 3 * 4  # Distinct readable rules on each choice, in one order.


def test_failures_are_fed_back_and_the_last_rule_kept_is_the_description() -> None:
    def script(prompt: str) -> str:
        rounds = prompt.count("<answer> prefers")
        return f"<answer> prefers {['funny', 'detailed', 'brief and funny'][rounds]} </answer>"

    [said], writer, _ = induct(script, candidates=2)

    assert said.description == "prefers brief and funny"
    assert len(writer.prompts) == 3 * 2
    last = writer.prompts[-1]
    assert last.startswith(writer.prompts[0])  # The same conversation goes on.
    assert last.index("prefers funny") < last.index("prefers detailed")
    # The first rule decided nothing, as a tie does; the second chose the other replies.
    assert last.count("prefers the other one, not the chosen one") == 8


def test_what_is_malformed_counts_and_what_is_unanswered_does_not() -> None:
    [malformed], _, _ = induct(lambda _: "<answer> never closed")
    assert (malformed.description, malformed.problem) == (None, "answer_not_closed")

    unanswered, writer, judge = induct(lambda _: None)
    assert unanswered == []
    assert len(writer.prompts) == 3 * 5
    assert len(set(writer.prompts)) == 1  # There is no rule to speak of.
    assert judge.asked == []


def test_without_comparisons_the_first_rule_stays() -> None:
    case = msgspec.structs.replace(CASE, signals=(Post("a post", "a comment"),))
    rules = iter("abcde")

    [said], writer, _ = induct(lambda _: f"<answer> prefers {next(rules)} </answer>", case)

    assert said.description == "prefers a"
    assert "a comment" in writer.prompts[0]

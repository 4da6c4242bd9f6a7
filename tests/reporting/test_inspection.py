"""Inspection shows what training reads, in the terminal and as a page."""

from __future__ import annotations

import io

from rich.console import Console

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.reporting.inspection import (
    inspect_case,
    inspect_example,
    render_terminal,
)
from alignxplore_trl.reporting.pages import render_page
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts

SIGNALS = tuple(Comparison(f"post {n}", "<b>yes</b>", "no\x1b[2J") for n in range(4))
CASE = Case("case 1", "ann", SIGNALS, Comparison("target post", "c", "r"), description="the truth")


BUDGET = PromptBudget(Prompts("compact"), lambda text: {"input_ids": text}, 100)


def test_a_case_is_shown_with_its_rounds_and_what_is_trained_on() -> None:
    examples = {("case 1", 1): ("the example's prompt", "the example's completion")}
    shown = inspect_case(CASE, CASE.rounds(2, 2), BUDGET, examples)
    first, second = shown.rounds
    assert (first.prompt, first.completion) == examples["case 1", 1]
    assert (second.prompt, second.completion) == (
        BUDGET.fit("inference", SIGNALS[2:], "the truth").text,
        None,
    )
    assert first.facts == [
        "signals: 2 comparison",
        "1 left out, 0 texts shortened",
        "20 tokens read, 24 trained on, and the end",
    ]
    assert "the true description stands in for the earlier one" in second.facts
    assert shown.hidden["true description"] == "the truth"
    assert "target post" not in second.prompt


def test_control_characters_and_markup_are_shown_not_obeyed() -> None:
    shown = [
        inspect_case(CASE, CASE.rounds(4, 1), BUDGET, {}),
        inspect_example("published 1", ("a prompt </pre>", None), BUDGET),
    ]
    console = Console(file=io.StringIO(), force_terminal=False)
    render_terminal(console, shown)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert "[2J" in text
    page = render_page("inspection.html.jinja", cases=shown, title="a title")
    assert "&lt;b&gt;yes" in page
    assert "a prompt &lt;/pre&gt;" in page
    assert "<script" not in page

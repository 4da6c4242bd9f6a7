"""What is shown of a case is what training reads, and nothing in it is obeyed."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from alignxplore_trl.data.release import PublishedPrompts, PublishedRound
from alignxplore_trl.data.world import World
from alignxplore_trl.reporting.inspection import (
    Example,
    inspect_case,
    inspect_published_case,
    inspect_published_example,
    read_examples,
    render_page,
    render_terminal,
)
from alignxplore_trl.reporting.pages import visible
from alignxplore_trl.signals import Attributes, Comparison, Post
from alignxplore_trl.text.parsing import parse_completion
from alignxplore_trl.training.cold_start import fit_examples

CASE = World(seed=2).case("cold_start", 0)
EXAMPLE = Example("<post> 1 x<think>", " r </think> <answer> prefers brief </answer>", None)


@pytest.fixture
def look(prompts, tokenizer):
    """Inspect a case with the tests' tokenizer."""

    def inspect(case=CASE, rounds=2, budget=512, examples=None):
        return inspect_case(
            case,
            per_round=4,
            rounds=rounds,
            prompts=prompts,
            tokenizer=tokenizer,
            max_prompt_tokens=budget,
            examples=examples or {},
        )

    return inspect


def terminal(inspected, colours=True) -> str:
    file = io.StringIO()
    system = "standard" if colours else None
    console = Console(file=file, force_terminal=colours, color_system=system, width=80)
    render_terminal(console, [inspected])
    return file.getvalue()


def test_the_spans_are_what_the_cold_start_masks_and_trains_on(look, tokenizer):
    (found,) = look(rounds=1, examples={(CASE.case_id, 1): EXAMPLE}).rounds
    row = {"prompt": EXAMPLE.prompt, "completion": EXAMPLE.completion}
    (example,) = fit_examples([row], tokenizer, 512)[0]
    masked = sum(label == -100 for label in example["labels"])
    assert [(span.trained, span.tokens) for span in found.spans] == [
        (False, masked),
        (True, len(example["labels"]) - masked),
    ]
    assert found.spans[0].text == EXAMPLE.prompt
    assert found.spans[1].text == EXAMPLE.completion + tokenizer.eos_token
    assert (found.origin, found.differs) == ("example", True)


def test_every_round_is_rendered_as_training_renders_it(look, prompts):
    one, two = look().rounds
    assert one.spans[0].text == prompts.inference(CASE.signals[:4], None)
    assert two.spans[0].text == prompts.inference(CASE.signals[4:8], CASE.description)
    assert (one.reads_earlier, two.reads_earlier) == (False, True)
    assert {one.origin, two.origin} == {"stand-in"}
    stand_in = parse_completion(one.spans[1].text.removesuffix("<|end|>"))
    assert stand_in.description == CASE.description


def test_without_a_known_description_the_prompt_stands_alone(look):
    inspected = look(replace(CASE, description=None))
    assert [[span.trained for span in each.spans] for each in inspected.rounds] == [[False]] * 2
    assert "0 trained on" in terminal(inspected)


def test_what_the_budget_leaves_out_is_said(look):
    whole, cut = look(rounds=1), look(rounds=1, budget=40)
    assert "nothing left out or shortened" in terminal(whole, colours=False)
    dropped = cut.rounds[0].fitted.dropped_signals
    assert dropped > 0
    assert f"left out by the budget: {dropped} of 4 signals" in terminal(cut, colours=False)
    assert f"left out by the budget: {dropped} of 4 signals" in render_page([cut], "t")


def test_a_mixed_history_is_counted_by_kind(look):
    mixed = replace(CASE, signals=(Attributes("a"), Post("p", "c"), *CASE.signals[:2]))
    shown = terminal(look(mixed, rounds=2), colours=False)
    assert "signals: 1 attributes, 1 posts, 2 comparisons" in shown
    assert "too few signals for 1 more" in shown


def test_masked_is_dim_and_trained_is_bright_on_a_terminal_and_said_without_colours(look):
    inspected = look(rounds=1)
    coloured, plain = terminal(inspected), terminal(inspected, colours=False)
    masked, trained = inspected.rounds[0].spans
    assert f"\x1b[2m{masked.text}\x1b[0m" in coloured, "as it is, however wide the terminal"
    assert f"\x1b[1;92m{trained.text}\x1b[0m" in coloured
    assert "\x1b" not in plain
    for text in (masked.heading, masked.text, trained.heading, trained.text):
        assert text in plain
    assert plain.index("never in the prompt") < plain.index(CASE.target.chosen)


class Page(HTMLParser):
    """Texts of a page by the class of the figure they stand in, and everything it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "onload")]
        if tag == "figure":
            self.figures.append((dict(attrs)["class"], ""))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "pre" in self._open:
            kind, text = self.figures[-1]
            self.figures[-1] = (kind, text + data)


def test_the_page_holds_the_same_and_needs_nothing_else(look):
    inspected = look()
    page = render_page([inspected], "world")
    read = Page(page)
    spans = [span for each in inspected.rounds for span in each.spans]
    # A browser drops the line break after <pre>.
    assert [(kind, text.removeprefix("\n")) for kind, text in read.figures] == [
        ("trained" if span.trained else "masked", span.text) for span in spans
    ]
    assert read.loaded == []
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_the_pages_colours_can_be_told_apart_in_both_schemes(look):
    """Contrast of text and ground at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    page = render_page([look()], "world")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block))
                   for block in re.findall(r":root \{([^}]*)\}", page))  # fmt: skip
    pairs = [("text", "ground"), ("quiet", "ground"), ("quiet", "masked"),
             ("trained-text", "trained"), ("mark", "ground")]  # fmt: skip
    for colours in (light, dark):
        for text, ground in pairs:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_hostile_texts_are_shown_and_not_obeyed(look):
    hostile = "\x1b[2J\x1b]0;title\x07 [bold]x[/bold] <script>alert(1)</script> \u202eevil </pre>"
    case = replace(
        CASE, case_id=hostile, signals=(Comparison(hostile, hostile, hostile),) * 4,
        target=Comparison(hostile, hostile, hostile), description=hostile,
    )  # fmt: skip
    inspected = look(case, rounds=1)
    shown = terminal(inspected, colours=False)
    assert not set("\x1b\x07\u202e") & set(shown)
    assert "␛[2J" in shown
    assert "[bold]x[/bold]" in shown
    page = render_page([inspected], hostile)
    assert "<script>" not in page
    assert Page(page).tags.count("pre") == 2


@given(st.text())
def test_visible_changes_nothing_but_what_is_obeyed(text):
    plain = "".join(char for char in text if char.isprintable())
    assert visible(plain) == plain
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", visible(text))


def test_the_first_kept_candidate_of_each_case_and_round_is_read(tmp_path):
    good, bad = EXAMPLE.completion, "no end"
    rows = [
        ("a", 1, "p1", bad, None, False),
        ("a", 1, "p1", good.replace(" r ", "\n r2\n"), None, True),
        ("a", 1, "p1", good, None, True),
        ("a", 2, "p2", good, "likes jokes", True),
        ("b", 1, "p3", bad, None, False),
    ]
    columns = ["case_id", "round", "prompt", "completion", "earlier", "kept"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "candidates.parquet")
    assert read_examples(tmp_path / "candidates.parquet") == {
        ("a", 1): Example("p1", good.replace(" r ", " r2 "), None),
        ("a", 2): Example("p2", good, "likes jokes"),
    }


def test_a_published_example_is_shown_whole(tokenizer):
    row = {"prompt": EXAMPLE.prompt, "completion": EXAMPLE.completion}
    found = inspect_published_example(3, row, tokenizer)
    (example,) = fit_examples([row], tokenizer, 512)[0]
    assert [span.tokens for span in found.rounds[0].spans] == [
        sum(label == -100 for label in example["labels"]),
        sum(label != -100 for label in example["labels"]),
    ]
    shown = terminal(found, colours=False)
    assert "published example 3" in shown
    assert "completion: the published response" in shown
    assert "what the description is tested on" not in shown
    assert "what the description is tested on" not in render_page([found], "t")


def test_published_rounds_are_shown_as_rl_reads_them(prompts, tokenizer):
    def count_tokens(text):
        return len(tokenizer(text)["input_ids"])

    fit = PublishedPrompts(prompts, count_tokens, 512).fit
    rows = [
        PublishedRound("rows-1", 1, "1. *Post:*\nx", -1, "post", "better", "worse"),
        PublishedRound("rows-1", 2, "1. *Post:*\ny\nNot provided", 13, "post", "better", "worse"),
    ]
    found = inspect_published_case(rows, fit, tokenizer)
    for shown, row in zip(found.rounds, rows, strict=True):
        (span,) = shown.spans
        assert not span.trained
        assert span.tokens == count_tokens(fit(row, None).text)
    assert "better" in terminal(found)

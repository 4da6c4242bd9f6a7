"""What is left out of a prompt that is too long: as little as the rule allows, and counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.cases import Attributes, Comparison, Post, Signal
from alignxplore_trl.text.budget import ELLIPSIS, PromptBudget, PromptTooLongError
from alignxplore_trl.text.prompts import Prompts

PROMPTS = Prompts("compact")
PAIRS = [Comparison(f"post {n}", f"good {n}", f"bad {n}") for n in range(4)]


def render(signals: Sequence[Signal], earlier: str | None) -> str:
    return PROMPTS.render("inference", signals=signals, earlier=earlier)


def budget(longest: int) -> PromptBudget:
    """One token is one character."""
    return PromptBudget(PROMPTS, lambda text: {"input_ids": text}, longest)


def fit(signals: Sequence[Signal], longest: int, earlier: str | None = None):  # type: ignore[no-untyped-def]
    return budget(longest).fit_by(render, signals, earlier)


def test_oldest_signals_go_first_and_attributes_after_all_but_the_newest() -> None:
    about = Attributes("young")
    signals = [about, *PAIRS]
    for kept in (signals, [about, *PAIRS[2:]], [about, PAIRS[3]], [PAIRS[3]]):
        fitted = fit(signals, len(render(kept, None)))
        assert fitted.text == render(kept, None)
        assert fitted.dropped_signals == len(signals) - len(kept)


def test_then_the_middles_of_the_longest_texts() -> None:
    long = Comparison("p" * 500, "c" * 300, "short")
    fitted = fit([*PAIRS, long], 400, "e" * 200)
    assert fitted.dropped_signals == 4
    assert fitted.shortened_texts == 3
    assert fitted.text.count(ELLIPSIS) == 3
    assert "short" in fitted.text
    # The longest common length that fits: one character more in each would not.
    assert 400 - 3 < len(fitted.text) <= 400


def test_the_instruction_is_never_cut() -> None:
    with pytest.raises(PromptTooLongError, match=r"prompts\.max_tokens is 30"):
        fit([Post("p" * 100, "c" * 100)], 30)


@settings(deadline=None)
@given(
    st.lists(st.builds(Post, st.text(max_size=90), st.text(max_size=90)), max_size=5),
    st.none() | st.text(max_size=200),
    st.integers(150, 500),
)
def test_what_comes_out_fits_or_is_refused(
    signals: list[Post], earlier: str | None, longest: int
) -> None:
    try:
        fitted = fit(signals, longest, earlier)
    except PromptTooLongError:
        return
    assert len(fitted.text) <= longest
    assert fitted.dropped_signals < max(1, len(signals))


@pytest.mark.timeout(60)
def test_long_texts_and_many_signals_take_linear_time() -> None:
    for filler in ("<", " ", "* ", "< /"):
        text = filler * (200_000 // len(filler))
        assert fit([Post(text, text)], 900, text).shortened_texts == 3
    assert fit([Post("p", "c")] * 5_000, 900).dropped_signals > 4_900


def test_a_run_in_which_most_prompts_lose_signals_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    budget(320).warn_of_losses(5, 10)
    assert capsys.readouterr().err == ""
    budget(320).warn_of_losses(6, 10)
    assert "6 of 10 prompts lost signals: above prompts.max_tokens=320" in capsys.readouterr().err

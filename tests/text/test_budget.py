"""The token budget: what goes first, what never goes, and that all of it is counted."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.signals import Attributes, Comparison, Post, Signal
from alignxplore_trl.text.budget import (
    ELLIPSIS,
    SHORTEST_TEXT,
    PromptTooLongError,
    fit_prompt,
    shorten,
)

INSTRUCTION = "Describe the user."


def render(signals: Sequence[Signal], earlier: str | None) -> str:
    lines = [INSTRUCTION]
    for signal in signals:
        match signal:
            case Comparison(post, chosen, rejected):
                lines.append(f"post={post} chosen={chosen} rejected={rejected}")
            case Post(post, comment):
                lines.append(f"post={post} comment={comment}")
            case Attributes(text):
                lines.append(f"attributes={text}")
    if earlier is not None:
        lines.append(f"earlier={earlier}")
    return "\n".join(lines)


texts = st.text(alphabet="abcdefgh ", max_size=300)
signals_of_any_kind = st.one_of(
    st.builds(Comparison, texts, texts, texts), st.builds(Post, texts, texts),
    st.builds(Attributes, texts),
)  # fmt: skip


def going_order(signals: Sequence[Signal]) -> list[int]:
    """Places of all signals but the one that stays, in the order in which they go."""
    dated = [n for n, signal in enumerate(signals) if not isinstance(signal, Attributes)]
    undated = [n for n, signal in enumerate(signals) if isinstance(signal, Attributes)]
    return [*dated[:-1], *undated] if dated else undated[:-1]


def left_after(signals: Sequence[Signal], gone: Sequence[int]) -> list[Signal]:
    return [signal for n, signal in enumerate(signals) if n not in gone]


@given(
    st.lists(signals_of_any_kind, min_size=1, max_size=5),
    st.none() | texts,
    st.integers(0, 2500),
)
def test_fitted_prompts_keep_the_rule(signals, earlier, budget):
    try:
        fitted = fit_prompt(render, signals, earlier, len, budget)
    except PromptTooLongError:
        # Not even the last signal that stays, with every text at its shortest, fits.
        assert len(render(left_after(signals, going_order(signals)), earlier)) > budget
        assert budget < len(INSTRUCTION) + 5 * (SHORTEST_TEXT + len("attributes="))
        return
    assert len(fitted.text) <= budget
    assert fitted.text.startswith(INSTRUCTION)
    going = going_order(signals)
    kept = left_after(signals, going[: fitted.dropped_signals])
    assert kept, "at least one signal is kept"
    if fitted.shortened_texts:
        assert len(kept) == 1, "whole signals go before any text is cut"
        assert fitted.text.count(ELLIPSIS) == fitted.shortened_texts
    else:
        assert fitted.text == render(kept, earlier)
    if fitted.dropped_signals:
        one_more = left_after(signals, going[: fitted.dropped_signals - 1])
        assert len(render(one_more, earlier)) > budget, "nothing goes that would have fitted"


def test_a_prompt_that_fits_is_left_alone():
    signals = [Attributes("a" * 100), Attributes("b" * 100)]
    fitted = fit_prompt(render, signals, "c" * 100, len, 10_000)
    assert fitted.text == render(signals, "c" * 100)
    assert (fitted.dropped_signals, fitted.shortened_texts) == (0, 0)


def test_the_oldest_signals_go_first():
    signals = [Attributes(letter * 50) for letter in "abcd"]
    budget = len(render(signals[2:], None))
    fitted = fit_prompt(render, signals, None, len, budget)
    assert fitted.dropped_signals == 2
    assert fitted.text == render(signals[2:], None)


def test_ten_thousand_signals_take_a_few_tries() -> None:
    signals = [Comparison(f"post {n}", "this", "that") for n in range(10_000)]
    rendered = []

    def counting(signals: Sequence[Signal], earlier: str | None) -> str:
        rendered.append(len(signals))
        return render(signals, earlier)

    fitted = fit_prompt(counting, signals, None, len, 500)
    assert "post=post 9999" in fitted.text
    assert fitted.dropped_signals == 10_000 - fitted.text.count("post=post")
    assert len(rendered) < 20


def test_attributes_outlast_older_and_newer_signals_but_the_newest():
    dated = [Post("p", letter * 50) for letter in "abc"]
    about = Attributes("young")
    signals = [about, *dated]
    for kept in ([about, *dated[1:]], [about, dated[2]], [dated[2]]):
        fitted = fit_prompt(render, signals, None, len, len(render(kept, None)))
        assert fitted.text == render(kept, None)
        assert fitted.dropped_signals == len(signals) - len(kept)


def test_the_middle_of_long_texts_is_cut_and_short_texts_stay_whole():
    signal = Comparison("short post", "start" + "x" * 500 + "end", "begin" + "y" * 500 + "stop")
    fitted = fit_prompt(render, [signal], None, len, 300)
    assert fitted.shortened_texts == 2
    assert "post=short post chosen=start" in fitted.text
    assert fitted.text.endswith("stop")
    # Both are cut to the longest common length that fits, so the budget is nearly used up.
    assert 300 - 2 < len(fitted.text) <= 300


def test_the_earlier_description_is_shortened_like_any_other_text():
    fitted = fit_prompt(render, [Attributes("young")], "likes " * 100, len, 200)
    assert fitted.shortened_texts == 1
    assert "attributes=young" in fitted.text


def test_a_budget_below_the_shortest_form_is_an_error_with_both_numbers():
    with pytest.raises(PromptTooLongError, match=r"58 tokens .* budget is 30 tokens"):
        fit_prompt(render, [], "x" * 500, lambda text: len(text) - 9, max_tokens=30)


@given(st.text(max_size=400), st.integers(SHORTEST_TEXT, 300))
def test_shorten_keeps_both_ends(text, length):
    short = shorten(text, length)
    assert len(short) == min(len(text), length)
    if len(text) > length:
        assert ELLIPSIS in short
        assert (short[:17], short[-17:]) == (text[:17], text[-17:])
    else:
        assert short == text


def test_items_that_are_shortened_stay_items():
    def render(signals: Sequence[Signal], earlier: str | None) -> str:
        (signal,) = signals
        assert isinstance(signal, Comparison)
        assert signal.form == "items"
        return signal.chosen

    fitted = fit_prompt(render, [Comparison("p", "a" * 200, "b", "items")], None, len, 60)
    assert fitted.shortened_texts == 1

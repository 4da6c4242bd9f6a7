"""Shaping: what it takes away, and that no order of right, wrong and malformed is turned round."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.rewards.shaping import NO_SHAPING, Shaping, shaped

shapings = st.builds(
    Shaping,
    word_limit=st.integers(0, 10),
    length_weight=st.floats(0, 2),
    repetition_weight=st.floats(0, 5),
    ngram=st.integers(1, 3),
    largest_penalty=st.floats(0, 0.99),
)
texts = st.lists(st.sampled_from("abc"), max_size=30).map(" ".join)


def test_the_penalty_is_counted_by_hand() -> None:
    shaping = Shaping(word_limit=4, length_weight=0.1, repetition_weight=0.5, ngram=2)
    assert shaping.penalty("one two three four") == 0
    assert shaping.penalty("one two three four five six") == pytest.approx(0.2)
    assert shaping.penalty("a b a b") == pytest.approx(0.5 / 3)
    assert shaping.penalty("a b a b a b") == pytest.approx(0.2 + 0.5 * 3 / 5)
    assert shaping.penalty("a b c d " * 9) == 0.5


@given(texts)
def test_it_is_off_as_it_stands(text: str) -> None:
    assert NO_SHAPING.penalty(text) == 0
    assert NO_SHAPING.is_off
    assert Shaping(length_weight=1.0, largest_penalty=0.0).is_off
    assert not Shaping(length_weight=0.1).is_off


@given(shapings, texts, texts, st.sampled_from([(0.0, 1.0), (0.5, 1.0), (0.0, 2.0)]), st.data())
def test_what_is_right_stays_above_what_is_not(
    shaping: Shaping, long: str, short: str, scale: tuple[float, float], data: st.DataObject
) -> None:
    tie, best = scale
    right = data.draw(st.floats(tie + 1e-6, best))
    other = data.draw(st.floats(tie - 1, tie))
    kept = shaped(right, tie, shaping.penalty(long))
    assert tie < kept <= right
    assert shaped(other, tie, shaping.penalty(short)) == other < kept


@given(shapings, texts)
def test_more_words_never_cost_less(shaping: Shaping, text: str) -> None:
    words = [f"w{number}" for number in range(len(text.split()))]
    penalties = [shaping.penalty(" ".join(words[:count])) for count in range(len(words) + 1)]
    assert penalties == sorted(penalties)
    assert all(0 <= penalty <= shaping.largest_penalty for penalty in penalties)


@pytest.mark.parametrize(
    "wrong",
    [
        {"word_limit": -1}, {"length_weight": -0.1}, {"repetition_weight": -1.0}, {"ngram": 0},
        {"largest_penalty": 1.0}, {"largest_penalty": -0.1},
    ],
)  # fmt: skip
def test_what_would_turn_the_order_round_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Shaping(**wrong)

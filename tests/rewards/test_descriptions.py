"""What descriptions give away, on descriptions as they are written and on made-up ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import DIMENSION_OF_POLE, OPPOSITE, describe
from alignxplore_trl.rewards.descriptions import (
    contradicts_itself,
    description_metrics,
    names_response,
    repeated_share,
    repeats_itself,
)

NATURAL = (
    "The user prefers concise answers with a practical focus. The user enjoys dry humour, values "
    "honesty over politeness. The user dislikes long introductions, and would welcome a response a "
    "friend might give. In choosing between options, a selection of examples helps."
)


@pytest.mark.parametrize(
    "text",
    [
        "Response A", "prefers RESPONSE B.", "the user likes response b most", "Reply A is right",
        "option_B", "Choose response a.", "response a", '{"selection": "x"}', "{selection: x}",
        "“selection”: “x”", "Response-A",
    ],
)  # fmt: skip
def test_a_named_response_is_seen(text: str) -> None:
    assert names_response(text)


@pytest.mark.parametrize(
    "text",
    [
        NATURAL, "", "prefers response as brief as possible", "a response a friend might give",
        "Option Alpha", "responses about B vitamins", "his selection: jokes",
    ],
)  # fmt: skip
def test_natural_text_names_no_response(text: str) -> None:
    assert not names_response(text)


@pytest.mark.parametrize(
    "text",
    [
        "prefers long replies, dislikes long replies",
        "The user likes jokes. The user does not like jokes.",
        "Prefers warm and brief replies. Avoids brief replies.",
        "prefers brief replies over long replies; enjoys long replies",
        "values honesty, rejects honesty",
        "loves a story but hates the story",
        "doesn't want advice. Wants advice.",
    ],
)
def test_being_for_and_against_the_same_words_is_a_contradiction(text: str) -> None:
    assert contradicts_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        NATURAL, "", "prefers long replies, dislikes short ones", "prefers brief, warm replies",
        "dislikes jokes, and dislikes jokes", "prefers brief replies over long ones",
        "likes dogs. Dogs that bark are avoided.", "does not like jokes",
    ],
)  # fmt: skip
def test_different_words_are_none(text: str) -> None:
    assert not contradicts_itself(text)


@given(st.lists(st.sampled_from(sorted(OPPOSITE)), max_size=6))
def test_in_the_world_both_poles_of_a_dimension_are_a_contradiction(poles: list[str]) -> None:
    described = describe(poles)
    both = len(set(poles)) > len({DIMENSION_OF_POLE[pole] for pole in poles})
    assert contradicts_itself(described, OPPOSITE) == both
    assert not contradicts_itself(described)


def test_the_share_of_repeated_ngrams_is_counted_by_hand() -> None:
    assert repeated_share("a b a b a b", 2) == pytest.approx(3 / 5)
    assert repeated_share("A b, a B!", 2) == pytest.approx(1 / 3)
    assert repeated_share("a b c", 3) == 0
    assert repeated_share("a b", 3) == repeated_share("", 1) == 0


@given(st.text(max_size=80), st.integers(1, 5))
def test_nothing_is_said_twice_only_in_repetitions(text: str, ngram: int) -> None:
    assert 0 <= repeated_share(text, ngram) < 1
    assert repeated_share(text + " ", ngram) == repeated_share(text, ngram)
    assert repeats_itself(f"{text} likes warm brief replies " * 6)


def test_sentences_that_begin_alike_are_no_repetition() -> None:
    assert not repeats_itself(NATURAL)
    assert not repeats_itself(
        "The user prefers concise answers. The user prefers warm words. The user prefers facts."
    )


def test_shares_are_of_the_descriptions_of_a_batch() -> None:
    batch = ["Response A", "prefers warm, blunt", "prefers warm", "warm brief replies " * 5]
    assert description_metrics(batch, OPPOSITE) == {
        "description/names_response": 0.25,
        "description/contradicts_itself": 0.25,
        "description/repeats_itself": 0.25,
        "description/words": (2 + 3 + 2 + 15) / 4,
    }
    assert description_metrics(batch)["description/contradicts_itself"] == 0
    assert description_metrics([]) == {}

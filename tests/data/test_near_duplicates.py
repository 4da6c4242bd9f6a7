"""Posts that differ in a word are one, others aren't."""

import random

import numpy as np

from alignxplore_trl.data.near_duplicates import (
    connected,
    groups_of_posts,
    linked_by,
    signatures_of,
)

DRAW = random.Random(0)
WORDS = [f"word{number}" for number in range(3000)]


def post(words: int = 100) -> list[str]:
    return DRAW.choices(WORDS, k=words)


def test_edited_posts_are_found_among_others():
    originals = [post() for _ in range(400)]
    # One word of a hundred: a Jaccard similarity of 95/101; twenty of them: at most 0.36.
    edited = [[*words[:50], "other", *words[51:]] for words in originals]
    rewritten = [list(words) for words in originals]
    for words in rewritten:
        words[::5] = DRAW.choices(WORDS, k=20)
    texts = [" ".join(words) for words in (*originals, *edited, *rewritten)]
    groups = groups_of_posts(signatures_of(texts), 0.8)
    assert (groups[:400] == groups[400:800]).all()
    assert len(set(groups)) == 800
    for number, words in enumerate(rewritten[:20]):
        assert len(set(words) & set(originals[number])) >= 60


def test_case_space_and_punctuation_make_no_difference():
    texts = [
        "How do I start? I never ran.",
        "how do I  start: i never RAN",
        "How do I stop? Never.",
    ]
    groups = groups_of_posts(signatures_of(texts), 0.8)
    assert groups[0] == groups[1] != groups[2]


def test_many_posts_of_one_template_are_one_group():
    template = post(300)
    texts = [" ".join([*template[:n], "x", *template[n:]]) for n in range(200)]
    assert len(set(groups_of_posts(signatures_of(texts), 0.8))) == 1


def test_short_posts_that_differ_in_a_word_are_two():
    groups = groups_of_posts(signatures_of(["cook rice", "cook pasta", "rice", "?"]), 0.8)
    assert len(set(groups)) == 4


def test_nothing_has_no_groups():
    assert len(groups_of_posts(signatures_of([]), 0.8)) == 0


def test_equal_keys_connect():
    keys = np.array([7, 3, 7, 9, 3, 7], np.uint64)
    labels = connected(linked_by(keys), len(keys))
    assert labels[0] == labels[2] == labels[5]
    assert labels[1] == labels[4]
    assert len(set(labels)) == 3

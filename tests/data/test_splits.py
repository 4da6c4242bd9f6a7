"""One splitter for all sources: nothing is shared, and what is lost is counted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.cases import Attributes, Case, Comparison
from alignxplore_trl.data.splits import (
    groups_of_posts,
    post_key,
    split_cases,
)
from alignxplore_trl.run.errors import UserError

SIZES = {"cold_start": 3, "rl": 4, "validation": 2, "test": 3}


def case(number, user, posts):
    target, *others = (Comparison(f"post {post}", "yes", "no") for post in posts)
    return Case(f"c{number}", f"u{user}", tuple(others), target)


def alone(count):
    """Cases that share nothing."""
    return [case(number, number, range(10 * number, 10 * number + 5)) for number in range(count)]


CASES = st.lists(
    st.tuples(st.integers(0, 8), st.lists(st.integers(0, 40), min_size=3, max_size=6)), min_size=1
)


@given(CASES, st.integers(0, 3))
def test_no_two_splits_share_a_user_or_a_post(drawn, seed):
    cases = [case(number, user, posts) for number, (user, posts) in enumerate(drawn)]
    counts = Counter()
    try:
        splits = split_cases(cases, SIZES, 2, seed, counts)
    except UserError:
        return
    owners = {}
    for split, taken in splits.items():
        assert len(taken) <= SIZES[split]
        for one in taken:
            assert len(one.signals) >= 2
            for key in (one.user_id, *(post_key(s.post) for s in (one.target, *one.signals))):
                assert owners.setdefault(key, split) == split
    dropped = sum(count for name, count in counts.items() if name.startswith("cases_dropped"))
    assert sum(map(len, splits.values())) + dropped + counts["cases_left_over"] == len(cases)


def test_cases_that_share_a_post_stay_together_and_nothing_is_lost():
    shares = [case(n, n, [*range(10 * n, 10 * n + 4), 10 * (n - 8)]) for n in range(8, 16)]
    counts = Counter()
    splits = split_cases([*alone(8), *shares], {"test": 8, "rl": 8}, 3, 0, counts)
    assert [len(splits["test"]), len(splits["rl"])] == [8, 8]
    assert counts["signals_dropped/shared_post"] + counts["cases_dropped/shared_post"] == 0


def test_where_all_share_a_post_training_gives_way():
    targets = [case(n, n, [0, 10 * n + 1, 10 * n + 2, 10 * n + 3]) for n in range(4)]
    with pytest.raises(UserError, match=r"left for rl.*shared_post 2.*SIGNALS=<n>"):
        split_cases(targets, {"test": 2, "rl": 2}, 3, 0, Counter())
    signals = [case(n, n, [10 * n + 1, 0, 10 * n + 2, 10 * n + 3]) for n in range(4)]
    splits = split_cases(signals, {"test": 2, "rl": 2}, 2, 0, Counter())
    assert [len(one.signals) for one in (*splits["test"], *splits["rl"])] == [3, 3, 2, 2]


def test_the_same_seed_gives_the_same_splits_and_few_cases_smaller_ones():
    first, again, other = (split_cases(alone(30), SIZES, 4, seed, Counter()) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert {split: len(taken) for split, taken in first.items()} == SIZES
    counts = Counter()
    splits = split_cases(alone(6), {"cold_start": 4, "rl": 4, "test": 4}, 4, 0, counts)
    assert {split: len(taken) for split, taken in splits.items()} == dict.fromkeys(splits, 2)
    assert counts["cases_missing/rl"] == 2


def test_words_that_introduce_items_may_be_shared_and_attributes_too():
    words = "These items were recommended to the user."
    signals, target = (Comparison(words, "a", "b"), Attributes("x")), Comparison(words, "c", "d")
    cases = [Case(f"c{n}", f"u{n}", signals, target) for n in range(8)]
    splits = split_cases(cases, {"rl": 4, "test": 4}, 2, 0, Counter(), not_posts=[words])
    assert [len(splits[name]) for name in ("rl", "test")] == [4, 4]
    with pytest.raises(UserError, match="no case is left for rl"):
        split_cases(cases, {"rl": 4, "test": 4}, 2, 0, Counter())


def test_near_duplicates_are_one_post_and_others_arent():
    words = [f"word{number}" for number in range(60)]
    post, longer, other = " ".join(words), " ".join([*words, "more"]), " ".join(words[::-1])
    groups = groups_of_posts([post, longer, other, "short", "shorter"])
    assert groups[post] == groups[longer]
    assert len(set(groups.values())) == 4
    assert post_key(" A  post\n") == post_key("a POST")


def test_thousands_of_posts_that_are_alike_are_one_group():
    words = " ".join(f"word{number}" for number in range(80))
    groups = groups_of_posts([f"{words} {number}" for number in range(3000)])
    assert len(set(groups.values())) == 1

"""No split knows a user or a post of another, and nothing is lost without being counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.splits import SPLITS, split_cases
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post, PreferenceCase, posts_of


def case(number: int, user: str, posts: list[str]) -> PreferenceCase:
    target, *history = posts
    signals = [
        Comparison(post, f"yes {number}", "no") if index % 2 else Post(post, f"said {number}")
        for index, post in enumerate(history)
    ]
    return PreferenceCase(
        f"case-{number}", user, (Attributes("young"), *signals), Comparison(target, "yes", "no")
    )


def posts_of_cases(cases) -> set[str]:
    posts = [post for case in cases for post in [case.target.post, *posts_of(case.signals)]]
    return {" ".join(post.lower().split()) for post in posts}


@st.composite
def cases_of_few_users_and_posts(draw):
    """Cases that share users and posts in every way, from not at all to all over."""
    users = st.integers(0, draw(st.integers(0, 12))).map(lambda number: f"user-{number}")
    names = st.integers(0, draw(st.sampled_from([8, 40, 400]))).map(lambda number: f"post {number}")
    posts = st.lists(names, min_size=3, max_size=5, unique=True)
    drawn = draw(st.lists(st.tuples(users, posts), max_size=20))
    return [case(number, user, posts) for number, (user, posts) in enumerate(drawn)]


sizes = st.fixed_dictionaries({split: st.integers(0, 6) for split in SPLITS})


@settings(max_examples=200)
@given(cases_of_few_users_and_posts(), sizes, st.integers(0, 5))
def test_splits_are_disjoint_and_everything_is_counted(cases, sizes, seed):
    try:
        splits = split_cases(cases, sizes, signals_needed=3, seed=seed)
    except UserError:  # a split gets nothing, see below
        return
    users = {split: {case.user_id for case in splits[split]} for split in SPLITS}
    posts = {split: posts_of_cases(splits[split]) for split in SPLITS}
    for number, one in enumerate(SPLITS):
        for other in SPLITS[number + 1 :]:
            assert not users[one] & users[other]
            if {one, other} != {"cold_start", "rl"}:
                assert not posts[one] & posts[other]

    originals = {case.case_id: case for case in cases}
    lost_signals = 0
    for split in SPLITS:
        assert len(splits[split]) <= sizes[split]
        for kept in splits[split]:
            original = originals[kept.case_id]
            assert kept.target == original.target
            assert len(kept.signals) >= 3
            assert [s for s in original.signals if s in kept.signals] == list(kept.signals)
            lost_signals += len(original.signals) - len(kept.signals)
    counts = splits.counts
    assert counts["signals_dropped/shared_post"] == lost_signals
    kept_cases = sum(len(splits[split]) for split in SPLITS)
    assert kept_cases + counts["cases_dropped/shared_post"] + counts["cases_left_over"] == len(
        cases
    )
    for split in SPLITS:
        assert counts[f"cases/{split}"] == len(splits[split])
        missing = counts.get(f"cases_missing/{split}", 0)
        assert len(splits[split]) + missing == sizes[split]


def separate(count: int, cases_per_user: int = 1) -> list[PreferenceCase]:
    return [
        case(number, f"user-{number // cases_per_user}", [f"{number}.{n}" for n in range(4)])
        for number in range(count)
    ]


def test_nothing_is_lost_where_connected_users_fit_into_a_split():
    # Users come in pairs who share a post.
    cases = [
        case(number, f"user-{number}", [f"{number}", f"shared {number // 2}", f"{number}.1"])
        for number in range(40)
    ]
    sizes = {"cold_start": 10, "rl": 20, "validation": 4, "test": 6}
    splits = split_cases(cases, sizes, signals_needed=3, seed=0)
    assert splits.counts["cases_dropped/shared_post"] == 0
    assert splits.counts["signals_dropped/shared_post"] == 0
    assert {split: len(splits[split]) for split in SPLITS} == sizes


def test_where_everyone_is_connected_train_loses_signals_first():
    # Each user shares a post with the next one: a chain, all connected.
    cases = [
        case(number, f"user-{number}", [f"{number}.0", f"{number}.1", f"link {number}",
             f"link {number + 1}"])
        for number in range(40)
    ]  # fmt: skip
    sizes = {"cold_start": 10, "rl": 20, "validation": 4, "test": 6}
    splits = split_cases(cases, sizes, signals_needed=2, seed=0)
    assert splits.counts["signals_dropped/shared_post"] > 0
    assert splits.counts["cases_dropped/shared_post"] == 0
    assert {split: len(splits[split]) for split in SPLITS} == sizes


def test_posts_that_differ_in_case_and_space_only_are_the_same():
    cases = [
        case(1, "a", ["1", "1.1", "1.2", "Same  post"]),
        case(2, "b", ["2", "2.1", "2.2", "same post\n"]),
    ]
    splits = split_cases(cases, {"test": 1, "rl": 1}, signals_needed=3, seed=0)
    assert splits.counts["signals_dropped/shared_post"] == 1
    assert len(splits.rl[0].signals) == 3


def test_fewer_cases_than_asked_for_are_shared_out_in_proportion_and_reported():
    sizes = {"cold_start": 400, "rl": 400, "validation": 100, "test": 100}
    splits = split_cases(separate(100), sizes, signals_needed=2, seed=0)
    assert splits.counts == {
        "cases/cold_start": 40, "cases/rl": 40, "cases/validation": 10, "cases/test": 10,
        "cases_missing/cold_start": 360, "cases_missing/rl": 360,
        "cases_missing/validation": 90, "cases_missing/test": 90,
        "cases_left_over": 0, "cases_dropped/shared_post": 0, "signals_dropped/shared_post": 0,
    }  # fmt: skip


def test_a_split_that_gets_nothing_is_an_error():
    with pytest.raises(UserError, match=r"no cases are left for cold_start, rl: 2 usable cases"):
        split_cases(separate(2), dict.fromkeys(SPLITS, 1), signals_needed=2, seed=0)


def test_the_seed_decides_who_is_where():
    def test_users(seed: int) -> list[str]:
        splits = split_cases(separate(60, 3), {"test": 9, "rl": 30}, signals_needed=2, seed=seed)
        return [case.user_id for case in splits.test]

    assert test_users(0) == test_users(0)
    assert test_users(0) != test_users(1)
    assert len(set(test_users(0))) == 3

"""P-SOUPS: the rules of histories and of reversed variants, held against the rows of the file."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.psoups import load_psoups
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison

FIXTURES = Path(__file__).parents[1] / "fixtures/psoups"
ALL = {"test": 1800}
POSTS = [f"post {number}" for number in range(7)]


def load(path=FIXTURES, signals=8, counts=ALL, seed=0, **changes):
    return load_psoups(path, signals, counts, seed, **changes)


def rows_of(path):
    return json.loads(path.read_text())


def pairs_of_direction(rows, description):
    """All pairs of a direction as they stand in the file, and nothing else about them."""
    own = [row for row in rows if row["ground_truth_persona"] == description]
    items = [item for row in own for item in (row, *row["Pair-wise Comparative Feedback"])]
    return {Comparison(item["prompt"], item["chosen"], item["rejected"]) for item in items}


def words(post):
    return tuple(post.lower().split())


def has_history(rows, row, signals):
    """Whether a row's direction has pairs about as many posts beside the target's."""
    pairs = pairs_of_direction(rows, row["ground_truth_persona"])
    return len({words(pair.post) for pair in pairs} - {words(row["prompt"])}) >= signals


@pytest.mark.parametrize("signals", [4, 8])
def test_every_row_is_a_case_with_its_own_target(signals):
    splits = load(signals=signals)
    rows = [row for file in sorted(FIXTURES.iterdir()) for row in rows_of(file)]
    assert len(splits.test) == len(rows) == splits.counts["cases/test"] == 48
    for case, row in zip(splits.test, rows, strict=True):
        assert case.target == Comparison(row["prompt"], row["chosen"], row["rejected"])
        assert case.description == row["ground_truth_persona"]
        assert len(case.signals) == signals
    assert len({case.case_id for case in splits.test}) == len(rows)
    assert (splits.cold_start, splits.rl, splits.validation) == ([], [], [])


def test_the_rows_own_pairs_come_first():
    rows = rows_of(FIXTURES / "psoups_humour.json")
    cases = load(FIXTURES / "psoups_humour.json").test
    own = [row["Pair-wise Comparative Feedback"] for row in rows]
    assert [case.signals[0].chosen for case in cases] == [items[0]["chosen"] for items in own]
    assert [s.post for s in cases[0].signals[:4]] == [item["prompt"] for item in own[0]]


def test_what_is_replaced_and_drawn_is_counted():
    counts = load(signals=4).counts
    assert counts["signals_dropped/repeated_post"] == 4
    assert counts["signals_dropped/targets_post"] == 4
    assert counts["signals_drawn"] == 8
    assert load(signals=8).counts["signals_drawn"] == 8 + 48 * 4


def test_rows_with_one_target_are_one_cluster_whichever_reply_was_chosen():
    splits = load()
    by_cluster = {}
    for case in splits.test:
        replies = frozenset((case.target.chosen, case.target.rejected))
        (dimension,) = case.directions
        by_cluster.setdefault(case.cluster, set()).add((dimension, case.target.post, replies))
    targets = set.union(*by_cluster.values())
    assert all(len(same) == 1 for same in by_cluster.values())
    assert splits.counts["clusters/test"] == len(by_cluster) == len(targets)
    assert 30 < len(targets) < len({case.target for case in splits.test}) < 48


def test_two_directions_are_two_users_of_one_dimension():
    cases = load(FIXTURES / "psoups_length.json").test
    assert {case.user_id for case in cases} == {
        "psoups-length-direction-1", "psoups-length-direction-2",
    }  # fmt: skip
    assert {tuple(case.directions) for case in cases} == {("length",)}


@st.composite
def files(draw):
    """Rows of two directions: any posts, in any case, for targets and histories."""
    replies = st.sampled_from(["yes", "no", "maybe", "well"])
    posts = st.sampled_from([*POSTS, *(post.upper() for post in POSTS), " post  0 "])
    pair = st.tuples(posts, replies, replies).filter(lambda texts: texts[1] != texts[2])

    def as_dict(texts):
        return dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))

    rows = []
    for description in ("Say it shortly.", "Say it at length."):
        for _ in range(draw(st.integers(1, 5))):
            history = [as_dict(texts) for texts in draw(st.lists(pair, max_size=4))]
            row = as_dict(draw(pair)) | {"ground_truth_persona": description}
            rows.append(row | {"Pair-wise Comparative Feedback": history})
    return rows


@settings(deadline=None, max_examples=60)
@given(rows=files(), signals=st.integers(1, 5), seed=st.integers(0, 3))
def test_histories_keep_the_rules(tmp_path_factory, rows, signals, seed):
    path = tmp_path_factory.mktemp("psoups") / "length.json"
    path.write_text(json.dumps(rows))
    enough = [number for number, row in enumerate(rows, 1) if has_history(rows, row, signals)]
    if not enough:
        with pytest.raises(UserError, match=r"data\.signals_per_user"):
            load(path, signals, seed=seed)
        return
    splits = load(path, signals, seed=seed)
    assert [int(case.case_id.split("-")[-1]) for case in splits.test] == enough
    assert splits.counts.get("cases_dropped/too_few_signals", 0) == len(rows) - len(enough)
    for case in splits.test:
        row = rows[int(case.case_id.split("-")[-1]) - 1]
        posts = [words(pair.post) for pair in case.signals]
        assert words(case.target.post) not in posts
        assert all(posts.count(post) == 1 for post in posts)
        assert set(case.signals) <= pairs_of_direction(rows, row["ground_truth_persona"])
        assert len(case.signals) == signals


@settings(deadline=None, max_examples=30)
@given(rows=files(), seed=st.integers(0, 3))
def test_reversed_variants_reverse_every_pair_and_the_direction_and_nothing_else(
    tmp_path_factory, rows, seed
):
    path = tmp_path_factory.mktemp("psoups") / "psoups_length.json"
    path.write_text(json.dumps(rows))
    try:
        cases = load(path, 2, seed=seed).test
    except UserError:
        return
    other = {"Say it shortly.": "Say it at length.", "Say it at length.": "Say it shortly."}
    turned = load(path, 2, seed=seed, reverse=True).test
    for case, back in zip(cases, turned, strict=True):
        for pair, swapped in zip(
            (case.target, *case.signals), (back.target, *back.signals), strict=True
        ):
            assert (pair.post, pair.chosen, pair.rejected) == (
                swapped.post, swapped.rejected, swapped.chosen,
            )  # fmt: skip
        assert back.description == other[case.description]
        assert back.directions == {"length": other[case.description]}
        assert (back.cluster, back.user_id) == (case.cluster, case.user_id)
        assert back.case_id == f"{case.case_id}-reversed"


def test_a_seed_gives_the_same_histories_and_another_one_others():
    assert load().test == load().test
    assert load().test != load(seed=1).test


def test_no_more_cases_than_asked_for():
    splits = load(counts={"test": 5})
    assert len(splits.test) == 5
    assert splits.counts["cases_left_over"] == 43


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    rows = rows_of(FIXTURES / "psoups_length.json")[:4]
    rows[0].pop("chosen")
    rows[1]["Pair-wise Comparative Feedback"][2]["rejected"] = 3
    rows[2]["Pair-wise Comparative Feedback"] = "none"
    path = tmp_path / "length.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError) as error:
        load(path)
    assert [problem.split(" found")[0].removeprefix(str(path)) for problem in
            error.value.problems] == [
        ", row 1, chosen: nothing",
        ", row 2, Pair-wise Comparative Feedback item 3, rejected: 3",
        ', row 3, Pair-wise Comparative Feedback: "none"',
    ]  # fmt: skip


def test_a_file_with_one_direction_is_refused(tmp_path):
    path = tmp_path / "length.json"
    path.write_text(json.dumps(rows_of(FIXTURES / "psoups_length.json")[:12]))
    with pytest.raises(UserError, match=r"1 different descriptions found, expected two"):
        load(path)


def test_more_signals_than_there_are_posts_are_refused():
    with pytest.raises(UserError, match=r"data\.signals_per_user: 40 found"):
        load(signals=40)


def test_anonymised_pairs_hold_no_address(tmp_path):
    rows = rows_of(FIXTURES / "psoups_humour.json")
    for row in rows:
        row["chosen"] += " mail ada@example.com"
    path = tmp_path / "psoups_humour.json"
    path.write_text(json.dumps(rows))
    assert "ada@example.com" in repr(load(path).test)
    splits = load(path, anonymise=True)
    assert "ada@example.com" not in repr(splits.test)
    assert splits.counts["anonymised/cases"] == len(splits.test) == len(rows)

"""ALIGNX rows: which pass the paper's rules, with which signals, and what is said of the others."""

import itertools
import json
from collections import Counter

import pytest

from alignxplore_trl.cases import Attributes, Comparison, Post
from alignxplore_trl.data.alignx import DIRECTIONS, PAIRS, AlignX
from alignxplore_trl.run.errors import UserError

POSTS, ABOUT = "User-Generated Content", "Demographic Information"
DIMENSIONS = [
    {"name": f"d{n}", "positive": f"likes {n}", "negative": f"hates {n}"} for n in range(8)
]
FIVE = [1, 1, 0, 0, 1, 0.5, 0.5, 0.5]


def pair(name, vector=None):
    found = {"prompt": f"post {name}", "chosen": f"yes {name}", "rejected": f"no {name}"}
    return found | ({} if vector is None else {DIRECTIONS: vector})


def row(name, vectors=(FIVE,) * 4, target=FIVE, **more):
    history = [pair(f"{name}-{n}", vector) for n, vector in enumerate(vectors)]
    return pair(name, target) | {PAIRS: history} | more


def read(folder, rows, signals=1, seed=0, **settings):
    """The test cases of some rows, and the counts."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = Counter()
    source = AlignX(
        **{"path": str(path), "sizes": {"test": len(rows)}, "rounds": 1, "signals": signals}
        | {"dimensions": DIMENSIONS} | settings
    )  # fmt: skip
    return source.cases(counts, seed), counts


def test_a_refined_case_knows_its_directions_and_its_signals_vectors(tmp_path):
    vectors = ([*FIVE[:5], 0, 0.5, 0.5], [*FIVE[:5], 0.5, 1, 0.5])
    splits, counts = read(tmp_path, [row("r", vectors)], signals=2)
    (case,) = splits["test"]
    assert case.target == Comparison("post r", "yes r", "no r")
    assert case.vectors == tuple(tuple(map(float, vector)) for vector in vectors)
    assert case.directions == {
        "d0": "likes 0", "d1": "likes 1", "d2": "hates 2", "d3": "hates 3", "d4": "likes 4",
    }  # fmt: skip
    assert case.description == "This user likes 0; likes 1; hates 2; hates 3; likes 4."
    assert (case.case_id, case.user_id) == ("rows-1", "rows-1-user")
    assert counts["rows_passed"] == counts["rows"] == 1


def test_items_disagree_and_conflict_in_both_readings(tmp_path):
    six = [1, 1, 0, 0, 1, 1, 0.5, 0.5]
    vectors = (
        six,  # 0: agrees on all six.
        [*six[:5], 0.5, 0, 0.5],  # 1: on five of six, and is negative in d6.
        [*six[:5], 0, 0.5, 0.5],  # 2: contradicts the target in d5.
        [*six[:6], 1, 0.5],  # 3: contradicts item 1 in d6.
        [*six[:4], 0.5, 1, 0.5, 0.5],  # 4: on five of six, with another missing.
    )
    rows = [row("r", vectors, target=six)]
    for agreement, expected in (("some", [0, 1, 4]), ("all", [0, 3])):
        splits, counts = read(tmp_path, rows, agreement=agreement)
        found = [int(signal.post[-1]) for signal in splits["test"][0].signals]
        assert found == expected
        assert counts["signals_dropped/conflict"] == (2 if agreement == "some" else 0)


def test_few_dimensions_or_signals_leave_a_row_out_with_a_reason(tmp_path):
    rows = [
        row("good"), row("few", target=[1, 1, 1, 1, *[0.5] * 4]),
        row("other", [[*FIVE[:4], 0, 0.5, 0.5, 0.5]] * 4), row("none", target=None),
    ]  # fmt: skip
    splits, counts = read(tmp_path, rows, signals=4, refine=True)
    assert [case.case_id for case in splits["test"]] == ["rows-1"]
    for reason in ("few_dimensions", "too_few_signals", "no_directions"):
        assert counts[f"rows_dropped/{reason}"] == 1
    assert counts["signals_dropped/other_directions"] == 4


def test_rows_without_vectors_arent_refined_and_it_is_counted(tmp_path):
    # A target vector alone drops nothing.
    splits, _ = read(tmp_path, [row("r", (None,) * 4)], signals=4)
    assert [(case.vectors, len(case.signals)) for case in splits["test"]] == [(None, 4)]
    rows = [row("r", (None,) * 4, target=None, user=7)]
    splits, counts = read(tmp_path, rows, signals=4)
    (case,) = splits["test"]
    assert (case.directions, case.description, case.user_id) == (None, None, "7")
    assert counts["rows_without_directions"] == 1
    with pytest.raises(UserError, match="rows_dropped/no_directions 1"):
        read(tmp_path, rows, signals=4, refine=True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("comparisons", [Comparison]), ("posts", [Post]), ("mixed", [Attributes, Post, Comparison])],
)
def test_kinds_of_histories(tmp_path, kind, expected):
    comment = {"prompt": "asked", "comment": "said", DIRECTIONS: FIVE}
    whole = row("r", (FIVE,), **{POSTS: [comment], ABOUT: "a teacher"})
    splits, _ = read(tmp_path, [whole], signal_kind=kind)
    (case,) = splits["test"]
    assert [type(signal) for signal in case.signals] == expected
    assert [len(vector) for vector in case.vectors] == [0, 8, 8][-len(expected) :]


def test_of_many_rows_a_sample_is_kept_and_repeated_or_empty_signals_are_not(tmp_path):
    rows = [row(f"r{n}") for n in range(40)]
    equal, empty = pair("e") | {"rejected": "yes e"}, pair("f") | {"chosen": " "}
    rows[0][PAIRS] += [rows[0][PAIRS][0], equal, empty]
    splits, counts = read(tmp_path, rows, sizes={"test": 2})
    assert (counts["rows_passed"], counts["cases_left_over"]) == (40, 6)
    assert [len(case.signals) for case in splits["test"]] == [4, 4]
    assert splits == read(tmp_path, rows, sizes={"test": 2})[0]
    assert counts["signals_dropped/repeated"] == 1
    assert counts["signals_dropped/no_text_or_equal_replies"] == 2


@pytest.mark.parametrize("named", [True, False])
def test_rows_are_of_one_user_by_name_or_through_shared_signals(tmp_path, capsys, named):
    rows = [row(f"r{n}") for n in range(4)]
    if named:
        rows = [each | {"user": "ann"} for each in rows]
    else:
        # A chain: each row's last signal is the first of the next.
        for one, other in itertools.pairwise(rows):
            other[PAIRS][0] = one[PAIRS][-1]
    splits, counts = read(tmp_path, rows, signals=3)
    assert {case.user_id for case in splits["test"]} == {"ann" if named else "rows-1-user"}
    assert counts["users"] == 1
    assert ("4 rows are of 1 users, the largest has 4" in capsys.readouterr().err) != named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 3}, "row 2: Expected `str`, got `int` - at `$.chosen`"),
        ({"chosen": "no r"}, "row 2: expected a post and two different replies"),
        ({DIRECTIONS: FIVE[1:]}, "row 2, Preference Direction: expected 0, 0.5 or 1 for each of"),
        ({DIRECTIONS: [*FIVE[1:], 0.7]}, "row 2, Preference Direction: expected 0, 0.5 or 1"),
        ({DIRECTIONS: [*FIVE[1:], True]}, "row 2: Expected `float`, got `bool`"),
        ({PAIRS: [pair("r")]}, "row 2: Pair-wise Comparative Feedback holds the target pair"),
        ({PAIRS: [{"prompt": "p"}]}, "missing required field `chosen` - at"),
        ({"user": " "}, "row 2: Expected `str` matching regex"),
    ],
)
def test_a_row_that_isnt_in_the_format_is_one_message(tmp_path, capsys, change, message):
    rows = [row("good"), row("r") | change]
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    problem, advice = caught.value.problems
    assert message in problem
    assert advice == "mistakes in rows: 1; mend them, or leave them out by data.bad_rows=leave_out"
    splits, counts = read(tmp_path, rows, bad_rows="leave_out")
    assert len(splits["test"]) == counts["rows_dropped/bad"] == 1
    assert "left out: " + problem in capsys.readouterr().err

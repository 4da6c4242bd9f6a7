"""Files of people's choices: what columns hold, in what order, and what is left out."""

import json
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from alignxplore_trl.data.mapping import Mapping, value_at
from alignxplore_trl.run.errors import UserError

PAIRS = {"user": "user", "post": "prompt", "replies": ["chosen", "rejected"]}
BATTLES = {
    "user": "judge", "post": "messages.0.content", "replies": ["a", "b"], "winner": "winner",
    "wins": [["model_a"], ["model_b"]],
}  # fmt: skip
ITEMS = {
    "user": "user", "post_text": "These items were recommended.", "replies": ["title"],
    "group": "list", "winner": "taken", "wins": [[True]],
}  # fmt: skip


def choices(count=6, user="ann", **more):
    return [
        {"user": user, "prompt": f"{user} asks {n}", "chosen": f"yes {n}", "rejected": f"no {n}"}
        | {name: values[n] for name, values in more.items()}
        for n in range(count)
    ]


def read(folder, rows, mapping=PAIRS, name="rows.jsonl", signals=2, **settings):
    """The test cases of some rows, and the counts."""
    path = folder / name
    if path.suffix == ".csv":
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = Counter()
    sizes = {"test": 2 * len(rows)}
    source = Mapping(path=str(path), sizes=sizes, rounds=1, signals=signals, **mapping, **settings)
    return source.cases(counts, 0)["test"], counts


def test_the_latest_choices_are_targets_and_those_before_them_their_history(tmp_path):
    cases, counts = read(tmp_path, choices(6), cases_per_user=2)
    found = [([s.post[-1] for s in case.signals], case.target.post[-1]) for case in cases]
    assert sorted(found) == [(["2", "3"], "4"), (["3", "4"], "5")]
    assert {case.user_id for case in cases} == {"ann"}
    assert (counts["rows"], counts["choices"], counts["users"]) == (6, 6, 1)


@pytest.mark.parametrize(
    "when",
    [
        [10, 9.5, 2, 11, 1, 30],
        ["10", "9.5", "2", "11", "1", "30"],
        ["2024-01-10", "2024-01-09T12:00:00Z", "2024-01-02", "2024-01-11T01:00:00+01:00",
         "2023-12-31", "2024-02-01"],
        [datetime(2024, 1, day, tzinfo=UTC) for day in (10, 9, 2, 11, 1, 30)],
    ],
)  # fmt: skip
def test_choices_are_ordered_by_number_or_date(tmp_path, when):
    name = "rows.parquet" if isinstance(when[0], datetime) else "rows.jsonl"
    cases, _ = read(tmp_path, choices(when=when), name=name, order="when", cases_per_user=1)
    assert [s.post[-1] for s in (*cases[0].signals, cases[0].target)] == ["0", "3", "5"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("values", [[True, False] * 3, [1, 0] * 3, [1.0, 0.0] * 3])
def test_filters_compare_what_values_mean(tmp_path, name, values):
    for wanted in (True, 1, "1.0", "true"):
        keep = {"good": [wanted]}
        cases, counts = read(tmp_path, choices(good=values), name=name, signals=1, keep=keep)
        assert counts["rows_dropped/good"] == 3
        assert {case.target.post[-1] for case in cases} == {"2", "4"}


def test_a_number_that_is_none_passes_no_filter(tmp_path):
    rating = [5, float("nan"), 5, None, 5, "high"]
    _, counts = read(tmp_path, choices(rating=rating), signals=1, keep={"rating": [5]})
    assert counts["rows_dropped/rating"] == 3
    with pytest.raises(UserError, match=r"no case is left .*rows_dropped/rating 6"):
        read(tmp_path, choices(rating=rating), keep={"rating": [7]})


def test_battles_are_won_by_values_and_ties_left_out(tmp_path):
    winners = ["model_a", "model_b", "tie", "model_b"]
    rows = [
        {"judge": "j", "messages": [{"content": f"q{n}"}], "a": "A", "b": "B", "winner": winner}
        for n, winner in enumerate(winners)
    ]
    cases, counts = read(tmp_path, rows, BATTLES)
    (case,) = cases
    assert [signal.chosen for signal in (*case.signals, case.target)] == ["A", "B", "B"]
    assert counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] == 1


def lists(count=5, user="u"):
    return [
        {"user": user, "list": f"{user}{n}", "title": f"item {n}{place}", "taken": place == 1}
        for n in range(count)
        for place in range(3)
    ]


def test_items_of_a_list_are_paired_and_their_words_are_no_post(tmp_path):
    rows = [row for user in "uvw" for row in lists(user=user)]
    cases, counts = read(tmp_path, rows, ITEMS, pairs_per_group=2)
    for case in cases:
        pairs = (case.target, *case.signals)
        assert {pair.post for pair in pairs} == {"These items were recommended."}
        assert all(pair.chosen.endswith("1") != pair.rejected.endswith("1") for pair in pairs)
        assert case.target.chosen not in {pair.chosen for pair in case.signals}
    assert counts["users"] == 3
    path = str(tmp_path / "rows.jsonl")
    splits = Mapping(path, {"rl": 4, "test": 4}, rounds=1, signals=2, **ITEMS).cases(Counter(), 0)
    assert all(splits.values())


def test_a_group_is_of_one_user(tmp_path):
    rows = [*lists(), {"user": "x", "list": "u4", "title": "t", "taken": 0}]
    with pytest.raises(UserError, match=r"row 16, list: a row before has the group u4, but"):
        read(tmp_path, rows, ITEMS)


def test_no_choice_about_the_targets_post_is_in_its_history(tmp_path):
    rows = choices(6)
    rows[3]["prompt"], rows[5]["chosen"] = "  ANN asks 4", " "
    cases, counts = read(tmp_path, rows, cases_per_user=1)
    assert [signal.post[-1] for signal in cases[0].signals] == ["1", "2"]
    assert counts["choices_dropped/no_text_or_equal_replies"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, r"row 1: Expected `int \| str`, got `null` - at `\$.user`"),
        ({"user": " "}, r"row 1: Expected `str` matching regex .*user"),
        ({"chosen": 3}, r"row 1: Expected `str`, got `int` - at `\$.replies\[0\]`"),
        ({"user": "a \ud83d"}, "row 1: .*can't encode character '.ud83d' in position 2"),
        ({"when": float("nan")}, "row 1: order: nan found, expected a number or date"),
        ({"when": None}, "row 1: order: None found"),
        ({"when": "soon"}, "row 1: order: 'soon' found"),
        ({"when": "2024-01-01"}, "rows.jsonl, when: expected numbers or dates, found both"),
    ],
)
def test_a_row_that_cant_be_used_is_one_message(tmp_path, change, message):
    rows = choices(4, when=range(4))
    rows[0] |= change
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, rows, order="when")
    assert len(caught.value.problems) <= 2


def test_a_mapping_that_says_too_little_or_too_much_is_refused(tmp_path):
    for change, message in (
        ({"post": None}, r"expected post \(a column\) or post_text"),
        ({"post_text": "words"}, r"expected post \(a column\) or post_text"),
        ({"winner": "w"}, "one list of values of winner for each"),
        ({"usr": "x"}, "usr"),
    ):
        with pytest.raises(ValidationError, match=message):
            read(tmp_path, choices(1), PAIRS | change)


def test_paths_lead_into_lists_and_objects():
    row = {"a": [{"b": "x"}, {"b": "y"}], "a.b": 1}
    assert value_at(row, "a.-1.b") == "y"
    assert value_at(row, "a.b") == 1
    assert value_at(row, "a.2.b") is value_at(row, "a.b.c.d") is value_at(row, "c") is None

"""Reading ALIGNX-shaped files: what is read, what is counted, and what each mistake says."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.alignx import (
    Dimension,
    connected_groups,
    dimensions_from_config,
    read_alignx,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post

ROOT = Path(__file__).parents[2]
PAIRS = "Pair-wise Comparative Feedback"
POSTS = "User-Generated Content"
DIMENSIONS = [Dimension(f"trait {n}", f"has trait {n}", f"lacks trait {n}") for n in range(90)]


def pair(name: str, post: str | None = None) -> dict:
    return {"prompt": post or f"post {name}", "chosen": f"yes {name}", "rejected": f"no {name}"}


def row(name: str = "t", history: int = 4, **changes) -> dict:
    """A row that can be read; a change to `None` removes a key."""
    pairs = [pair(f"{name}{number}") for number in range(history)]
    values = pair(name) | {PAIRS: pairs} | changes
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSON lines, and return the path."""

    def write(*rows: object) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def read(path, signals_needed=4, signal_kind="comparisons"):
    return read_alignx(str(path), signals_needed, DIMENSIONS, signal_kind)


def problems_of(path) -> list[str]:
    with pytest.raises(UserError) as error:
        read(path)
    return error.value.problems


class TestReading:
    def test_a_row_becomes_a_case(self, write_rows):
        directions = [0.5] * 90
        directions[3], directions[89] = 1, 0
        path = write_rows(row("t", user="u7", **{"Preference Direction": directions}))
        (case,) = read(path).cases
        assert case.case_id == "rows-1"
        assert case.user_id == case.cluster == "u7"
        assert case.target == Comparison("post t", "yes t", "no t")
        assert case.signals == tuple(
            Comparison(f"post t{n}", f"yes t{n}", f"no t{n}") for n in range(4)
        )
        assert case.directions == {"trait 3": "has trait 3", "trait 89": "lacks trait 89"}
        assert case.description == "This user has trait 3; lacks trait 89."

    def test_without_directions_the_truth_is_not_known(self, write_rows):
        path = write_rows(row("a"), row("b", **{"Preference Direction": [0.5] * 90}))
        for case in read(path).cases:
            assert case.directions is None
            assert case.description is None

    @pytest.mark.parametrize("layout", ["lines", "array", "byte order mark", "blank lines"])
    def test_layouts_of_json(self, tmp_path, layout):
        rows = [row("a"), row("b")]
        lines = "\n".join(map(json.dumps, rows))
        path = tmp_path / "rows.json"
        path.write_text(
            {
                "lines": lines,
                "array": json.dumps(rows, indent=2),
                "byte order mark": "\ufeff" + lines,
                "blank lines": "\n" + lines.replace("\n", "\n\n") + "\n\n",
            }[layout]
        )
        assert [case.target.post for case in read(path).cases] == ["post a", "post b"]

    def test_line_ends_of_unicode_inside_a_text_end_no_line(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        text = json.dumps(row("a", prompt="one\u2028two\x85three"), ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        assert read(path).cases[0].target.post == "one\u2028two\x85three"

    @pytest.mark.parametrize(
        ("signal_kind", "expected"),
        [
            ("comparisons", [Comparison("post t0", "yes t0", "no t0")]),
            ("posts", [Post("p", "said")]),
            (
                "mixed",
                [Attributes("young"), Post("p", "said"), Comparison("post t0", "yes t0", "no t0")],
            ),
        ],
    )
    def test_the_kind_of_signals_is_chosen(self, write_rows, signal_kind, expected):
        path = write_rows(
            row("t", history=1)
            | {POSTS: [{"prompt": "p", "comment": "said"}], "Demographic Information": "young"}
        )
        assert list(read(path, 1, signal_kind).cases[0].signals) == expected

    def test_an_unknown_kind_of_signals_is_refused(self, write_rows):
        with pytest.raises(UserError, match=r"data\.signal_kind: 'pairs' found, expected one of"):
            read(write_rows(row("t")), 1, "pairs")

    def test_the_shipped_fixture_is_read(self):
        read_all = read(ROOT / "tests/fixtures/alignx.jsonl", 8)
        assert read_all.counts == {"rows": 12, "rows_broken": 0}
        assert len({case.user_id for case in read_all.cases}) == 6


class TestUsers:
    def test_rows_that_share_a_signal_are_one_user(self, write_rows):
        a, b, c, d = row("a"), row("b"), row("c"), row("d")
        b[PAIRS][0] = a[PAIRS][3]
        c[PAIRS][1] = pair("b")  # b's target
        users = [case.user_id for case in read(write_rows(a, d, b, c)).cases]
        assert users == ["rows-user-of-1", "rows-user-of-2", "rows-user-of-1", "rows-user-of-1"]

    def test_the_user_key_is_believed(self, write_rows):
        a, b = row("a", user="x"), row("b", user=7)
        b[PAIRS] = a[PAIRS]
        assert [case.user_id for case in read(write_rows(a, b)).cases] == ["x", "7"]

    def test_equal_attributes_are_no_sign_of_one_user(self, write_rows):
        young = {"Demographic Information": "young"}
        cases = read(write_rows(row("a") | young, row("b") | young)).cases
        assert cases[0].user_id != cases[1].user_id

    def test_a_shared_post_alone_is_no_sign_of_one_user(self, write_rows):
        a, b = row("a"), row("b")
        a[PAIRS][0] = pair("x", post="same")
        b[PAIRS][0] = pair("y", post="same")
        cases = read(write_rows(a, b)).cases
        assert cases[0].user_id != cases[1].user_id

    @given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=12))
    def test_connected_groups_are_those_of_a_graph_search(self, keys):
        groups = connected_groups(keys)
        for item in range(len(keys)):
            reached, frontier = {item}, [item]
            while frontier:
                current = frontier.pop()
                new = {
                    other
                    for other in range(len(keys))
                    if set(keys[other]) & set(keys[current]) and other not in reached
                }
                reached |= new
                frontier += new
            assert groups[item] == min(reached)


class TestCounted:
    def test_signals_of_no_use_are_left_out_by_reason(self, write_rows):
        values = row("t", history=4)
        values[PAIRS] += [
            {"prompt": "p", "chosen": "same", "rejected": "same"},
            {"prompt": "p", "chosen": " ", "rejected": "b"},
            values[PAIRS][0],
        ]
        read_all = read(write_rows(values))
        assert len(read_all.cases[0].signals) == 4
        assert read_all.counts == {
            "rows": 1,
            "rows_broken": 0,
            "signals_dropped/empty_text": 1,
            "signals_dropped/identical_replies": 1,
            "signals_dropped/repeated": 1,
        }

    def test_cases_with_too_few_signals_are_left_out(self, write_rows):
        read_all = read(write_rows(row("a", 3), row("b", 4), row("c", 5)))
        assert [case.case_id for case in read_all.cases] == ["rows-2", "rows-3"]
        assert read_all.counts == {"rows": 3, "rows_broken": 0, "cases_dropped/too_few_signals": 1}


TARGET = pair("t")
SWAPPED = {"prompt": "post t", "chosen": "no t", "rejected": "yes t"}
BAD_ROWS = {
    "no target": (
        row(prompt=None, chosen=None, rejected=None),
        [f"line 2: the keys '{PAIRS}' found, expected a row with prompt, chosen, rejected"],
    ),
    "another object": ({"data": []}, ["line 2: the keys 'data' found, expected a row with prompt"]),
    "not an object": ([1, 2], ["line 2: [1, 2] found, expected a row with prompt"]),
    "no reply": (row(rejected=None), ["line 2, rejected: nothing found, expected a text"]),
    "a number": (row(chosen=5), ["line 2, chosen: 5 found, expected a text"]),
    "half a surrogate pair": (row(chosen="\ud800"), ['line 2, chosen: "\\ud800" found, expected']),
    "an empty reply": (row(chosen=" "), ["line 2, chosen: the text is empty, expected a target"]),
    "equal replies": (
        row(chosen="a", rejected="a"),
        ["line 2, chosen and rejected: the replies of the target pair are equal, expected two"],
    ),
    "empty history": (row(history=0), ["line 2: the history is empty, expected 'Pair-wise"]),
    "no history": (row(**{PAIRS: None}), ["line 2: the history is empty, expected 'Pair-wise"]),
    "history is a text": (row(**{PAIRS: "a"}), [f'line 2, {PAIRS}: "a" found, expected a list']),
    "history item is a text": (
        row(**{PAIRS: [TARGET | {"prompt": "x"}, "a"]}),
        [f'line 2, {PAIRS} item 2: "a" found, expected an object with prompt, chosen, rejected'],
    ),
    "history item lacks a field": (
        row(**{PAIRS: [{"prompt": "a", "chosen": "b"}]}),
        [f"line 2, {PAIRS} item 1, rejected: nothing found, expected a text"],
    ),
    "comment lacks": (
        row(**{POSTS: [{"prompt": "a"}]}),
        [f"line 2, {POSTS} item 1, comment: nothing found, expected a text"],
    ),
    "attributes are a list": (
        row(**{"Demographic Information": ["young"]}),
        ['line 2, Demographic Information: ["young"] found, expected a text'],
    ),
    "40 directions": (
        row(**{"Preference Direction": [1] * 40}),
        ["line 2, Preference Direction: 40 numbers found, expected 90: one for each entry of"],
    ),
    "a direction of 0.3": (
        row(**{"Preference Direction": [0.3] * 90}),
        ["line 2, Preference Direction: 0.3 found, expected 0, 0.5 or 1"],
    ),
    "directions are a text": (
        row(**{"Preference Direction": "up"}),
        ['line 2, Preference Direction: "up" found, expected a list'],
    ),
    "40 directions in the history": (
        row(**{PAIRS: [pair("a") | {"Preference Direction": [1] * 40}]}),
        [f"line 2, {PAIRS} item 1, Preference Direction: 40 numbers found, expected 90"],
    ),
    "the target in its history": (
        row(**{PAIRS: [pair("a"), TARGET]}),
        [f"line 2, {PAIRS} item 2: this is the target pair itself, expected other choices"],
    ),
    "the target swapped in its history": (
        row(**{PAIRS: [SWAPPED]}),
        [f"line 2, {PAIRS} item 1: this is the target pair itself"],
    ),
    "a nameless user": (row(user=" "), ['line 2, user: " " found, expected a text that names']),
    "several at once": (
        row(chosen=5, **{"Preference Direction": [], PAIRS: "a"}),
        ["line 2, chosen: 5", f'line 2, {PAIRS}: "a"', "line 2, Preference Direction: 0 numbers"],
    ),
}


class TestMistakes:
    @pytest.mark.parametrize("name", BAD_ROWS)
    def test_a_bad_row_is_named_with_file_line_and_field(self, write_rows, name):
        bad, expected = BAD_ROWS[name]
        path = write_rows(row("fine"), bad)
        problems = problems_of(path)
        assert len(problems) == len(expected)
        for problem, start in zip(problems, expected, strict=True):
            assert problem.startswith(f"{path}, {start}")

    def test_in_an_array_rows_are_counted(self, tmp_path):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps([row("a"), row("b"), row("c", chosen=None)], indent=1))
        assert problems_of(path) == [f"{path}, row 3, chosen: nothing found, expected a text"]

    def test_all_bad_rows_are_reported_together(self, write_rows):
        path = write_rows(row("a", chosen=None), row("b"), row("c", rejected=1), "text")
        assert [re.search(r"line (\d)", problem)[1] for problem in problems_of(path)] == list("134")

    def test_a_line_that_is_not_json_is_reported_with_the_others(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text(f'{json.dumps(row("a", chosen=None))}\n{{"prompt": "b", \n')
        first, second = problems_of(path)
        assert first.startswith(f"{path}, line 1, chosen: nothing found")
        assert re.search(r"rows\.jsonl, line 2, column 1\d: not JSON", second)

    def test_thousands_of_problems_are_not_listed(self, write_rows):
        problems = problems_of(write_rows(*[row(str(n), chosen=None) for n in range(500)]))
        assert len(problems) == 21
        assert problems[-1].endswith("480 more problems like these")

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "the file is empty"),
            (b" \n\n", "the file is empty"),
            (b"[]", "no rows found, expected at least one"),
            (b"[1,", "behind row 0: '1,' found"),
            (b"prompt,chosen,rejected\na,b,c\n", "starts with 'prompt,chosen"),
            (b'{\n "prompt": "a",\n "chosen": "b"\n}', "one JSON object over several lines"),
            (b'{"prompt": "caf\xe9"}\n', "line 1: byte 0xe9 is not valid UTF-8"),
            (b"PAR1\x15\x04", "not a readable Parquet file"),
            (b"\x80\x04\x95", "starts with '\N{REPLACEMENT CHARACTER}"),
            (b'"only a text"', "starts with '\"only a text"),
        ],
    )
    def test_files_of_another_format(self, tmp_path, content, expected):
        path = tmp_path / "rows"
        path.write_bytes(content)
        (problem,) = problems_of(path)
        assert problem.startswith(str(path))
        assert expected in problem

    def test_a_missing_file(self, tmp_path):
        (problem,) = problems_of(tmp_path / "nothing.jsonl")
        assert "data.path: found no file or folder" in problem


class TestDimensions:
    entries = yaml.safe_load((ROOT / "conf/data/dimensions/alignx.yaml").read_text())["dimensions"]

    def test_the_shipped_names_are_ninety_different_ones(self):
        dimensions = dimensions_from_config(self.entries)
        assert len(dimensions) == 90
        phrases = [phrase for d in dimensions for phrase in (d.positive, d.negative)]
        assert len(set(phrases)) == 180
        # The order is that of the benchmark's vectors: a few that are easily checked.
        names = [dimension.name for dimension in dimensions]
        assert (names[0], names[16], names[23], names[40]) == (
            "age group", "communication style", "order", "harmlessness",
        )  # fmt: skip
        assert (names[47], names[89]) == ("interest in science", "interest in fashion")

    @pytest.mark.parametrize(
        ("entries", "expected"),
        [
            ([{"name": "a", "positive": "b"}], "data.dimensions[0]:"),
            ([{"name": "a", "positive": "b", "negative": 3}], "data.dimensions[0]:"),
            ([{"name": "a", "positive": "b", "negative": "c", "x": "d"}], "data.dimensions[0]:"),
            (["a"], "data.dimensions[0]:"),
            ("a", "data.dimensions[0]:"),
            ([{"name": "a", "positive": "b", "negative": "c"}] * 2, "data.dimensions[1]: the name"),
        ],
    )
    def test_other_entries_are_refused(self, entries, expected):
        with pytest.raises(UserError, match=re.escape(expected)):
            dimensions_from_config(entries)

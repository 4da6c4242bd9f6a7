"""Files of signals: every row is read, or told with place and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.inference.signal_files import UserSignal, read_user_signals, signal_of
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Attributes, Comparison, Post, signal_to_dict

ROWS: list[dict[str, Any]] = [
    {"post": "p", "chosen": "c", "rejected": "r"},
    {"user": "ann", "id": "7", "kind": "comparison", "post": "list", "chosen": "x",
     "rejected": "y", "form": "items"},
    {"post": "p", "comment": "<answer> & \n日本語 </think>"},
    {"text": "a teacher, 40", "user": "ann"},
]  # fmt: skip
SIGNALS = [
    UserSignal(Comparison("p", "c", "r")),
    UserSignal(Comparison("list", "x", "y", "items"), "ann", "7"),
    UserSignal(Post("p", "<answer> & \n日本語 </think>")),
    UserSignal(Attributes("a teacher, 40"), "ann"),
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_signals_of_every_kind_are_read_from_every_format(tmp_path: Path) -> None:
    assert read_user_signals(lines(tmp_path / "a.jsonl", ROWS)) == SIGNALS
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    assert read_user_signals(tmp_path / "a.json") == SIGNALS
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    assert read_user_signals(tmp_path / "a.parquet") == SIGNALS
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):  # An empty cell is nothing written.
        table = tmp_path / f"a{suffix}"
        pd.DataFrame(ROWS).to_csv(table, sep=separator, index=False)
        assert read_user_signals(table) == SIGNALS


def test_a_quotation_that_does_not_end_swallows_no_rows(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text('text\n"a teacher\nlives in a town\n')
    with pytest.raises(UserError, match=r"a.csv, line 3: .*look for a missing quotation mark"):
        read_user_signals(table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"post": "p", "chosen": "c"}, "line 2, rejected: nothing found, expected a text"),
        ({"post": "p", "chosen": "", "rejected": "r"}, 'line 2, chosen: "" found, expected a text'),
        ({"post": "p", "chosen": 3, "rejected": "r"}, "line 2, chosen: 3 found, expected a text"),
        ({"post": "p"}, "line 2, kind: fields post found, expected the texts of one of comparison"),
        ({}, "line 2, kind: fields none found"),
        ({"kind": "vote", "post": "p"}, 'line 2, kind: "vote" found, expected the texts of one of'),
        ({"kind": 3, "post": "p"}, "line 2, kind: 3 found"),
        (
            {"text": "t", "txet": "t"},
            "line 2, txet: found, but signals of the kind attri",
        ),
        ({"text": "t", "user": 3}, "line 2, user: 3 found, expected a text"),
        ({"text": "t", "id": ""}, 'line 2, id: "" found, expected a text'),
        ({"post": "p", "chosen": "c", "rejected": "r", "form": "x"}, 'line 2, form: "x" found'),
        ([1], "line 2: [1] found, expected an object"),
    ],
)
def test_a_row_that_is_no_signal_is_told(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError) as error_info:
        read_user_signals(lines(tmp_path / "a.jsonl", [ROWS[0], row]))
    assert len(error_info.value.problems) == 1
    assert message in error_info.value.problems[0]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    bad = [{"post": "p", "chosen": "c", "x": 1}, {"text": ""}]
    with pytest.raises(UserError) as error_info:
        read_user_signals(lines(tmp_path / "a.jsonl", [*bad, *ROWS, "no"]))
    assert len(error_info.value.problems) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
fields = st.sampled_from(["post", "chosen", "rejected", "comment", "text", "kind", "form", "user"])


@given(st.one_of(json_values, st.dictionaries(fields, json_values)))
def test_any_row_is_a_signal_or_a_problem(row: Any) -> None:
    problems = Problems()
    found = signal_of(row, "here", problems)
    assert (found is None) == bool(problems.found)


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(
    st.one_of(
        st.builds(Comparison, texts, texts, texts, st.sampled_from(["replies", "items"])),
        st.builds(Post, texts, texts),
        st.builds(Attributes, texts),
    )
)
def test_what_is_written_is_read(signal: Comparison | Post | Attributes) -> None:
    problems = Problems()
    assert signal_of(signal_to_dict(signal), "here", problems) == UserSignal(signal)
    assert not problems.found

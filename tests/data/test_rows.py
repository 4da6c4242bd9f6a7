"""Files in the usual formats give the same rows, and what is none of them is named."""

import json

import pandas as pd
import pytest

from alignxplore_trl.data.rows import post_key, read_rows
from alignxplore_trl.run.errors import Problems, UserError

ROWS = [{"a": "one, or\ntwo", "b": "x"}, {"a": "três\u2028", "b": "\ty"}]


def values(path):
    problems = Problems()
    found = [row.value for row in read_rows(path, problems)]
    problems.raise_if_any()
    return found


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_lines_hold_the_same_rows(tmp_path, bom, indent):
    array = write(tmp_path / "a.json", bom + "\n " + json.dumps(ROWS, indent=indent))
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    by_line = write(tmp_path / "a.jsonl", bom + lines)
    assert values(array) == values(by_line) == ROWS
    assert [row.place for row in read_rows(array, Problems())] == [
        f"{array}, row 1",
        f"{array}, row 2",
    ]
    assert [row.place for row in read_rows(by_line, Problems())] == [
        f"{by_line}, line 1",
        f"{by_line}, line 3",
    ]


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_tables_hold_the_same_rows(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    table = pd.DataFrame(ROWS)
    if ending == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    assert values(path) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"a": 1}, ', "behind row 1: .* found, expected a comma and the next row"),
        ("a.json", '[{"a": 1}, {"b": x}]', r"row 2, column 7: not JSON"),
        ("a.json", '{\n"a": 1}', "one JSON object over several lines"),
        ("a.jsonl", '{"a": 1}\n{"a": \n{"b": 2}\nx', r"line 2, column \d+: not JSON"),
        ("a.jsonl", '{"a": 1}\nx', r"line 2, column 1: not JSON"),
        ("a.json", "[]", "no rows found"),
        ("a.csv", "a,b\n", "no rows found"),
        ("a.csv", "a,b\n1,2,3\n", "line 2: another number of columns than in the header"),
        ("a.csv", "a,b\n1\n", "line 2: another number of columns than in the header"),
        ("a.parquet", "PAR1", "not a readable Parquet file"),
        ("a.txt", "a,b\n1,2\n", "starts with 'a,b"),
        ("a.txt", "", "the file is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        values(path)
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="save the file as UTF-8"):
        values(path)
    with pytest.raises(UserError, match=r"data\.path: found no file or folder"):
        values(tmp_path / "b.json")


def test_rows_may_be_lists(tmp_path):
    rows = [[{"a": "]}"}, {"b": [1, [2]]}], [], [{"c": "\\"}]]
    assert values(write(tmp_path / "a.json", json.dumps(rows, indent=1))) == rows


def test_posts_are_the_same_in_any_case_and_spacing():
    assert post_key(" Why  THIS\n") == post_key("why this")
    assert post_key("why this?") != post_key("why this")

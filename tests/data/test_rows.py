"""Rows of any file, whatever it is: the same values, and one message for what can't be read."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from alignxplore_trl.data.rows import Problems, read_rows
from alignxplore_trl.run.errors import UserError

COLUMNS = ("user", "text")
ROWS = [{"user": f"u{n}", "text": f"näh, “{n}”\n😀\u2028 \\u00e9 ]}}"} for n in range(5)]


def read(source, columns=COLUMNS):
    problems = Problems()
    return list(read_rows(source, columns, problems)), problems


def values(source, columns=COLUMNS):
    found, problems = read(source, columns)
    assert problems == []
    return [row.value for row in found]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_as(path, content):
    with path.open("w", newline="", encoding="utf-8") as stream:
        if path.suffix in (".csv", ".tsv"):
            delimiter = "," if path.suffix == ".csv" else "\t"
            table = csv.DictWriter(stream, ["user", "text"], delimiter=delimiter)
            table.writeheader()
            table.writerows(content)
        elif path.suffix == ".json":
            json.dump(content, stream, indent=1)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "a.tsv", "a.ndjson"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write_as(tmp_path / name, ROWS)
    found, problems = read(path)
    assert [row.value for row in found] == ROWS
    assert problems == []
    assert (found[2].name, found[2].place) == ("a-3", f"{path}, row 3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"user": "a"}\n{"user": \n{"user": "b"}', r"row 2: not JSON: Expecting"),
        ('[{"user": "a"}, {"user": "b"', r"row 1: not JSON: Expecting ',' delimiter: line 1"),
        ('{"user": "a \\ud83d"}', r"row 1: .*can't encode character '\\ud83d' in position 2"),
        ('{"text": [{"x": "\\udc00"}]}', r"row 1: .*character '\\udc00' .* surrogates not allowed"),
        (b'{"user": "a", "text": "Caf\xe9"}', r"row 1: not JSON: .*can't decode byte 0xe9"),
        (b"\x1f\x8b\x08\x00", r"row 1: not JSON"),
        ("[" * 100_000, r"row 1: not JSON"),
    ],
)
def test_a_row_that_cant_be_read_is_one_message(tmp_path, content, message):
    found, problems = read(write(tmp_path / "a.json", content))
    assert len(problems) == 1
    with pytest.raises(UserError, match=message):
        raise UserError(problems)
    assert all(row.value in ({"user": "a"}, {"user": "b"}) for row in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,text\na,b,c\n", "line 2: another number of columns"),
        (b"user,text\na\n", "line 2: another number of columns"),
        (b'user,text\na,"b\n', "unexpected end of data"),
        (b"user,text\nu0,Caf\xe9\nu1,b\n", "can't decode byte 0xe9 .* expected UTF-8"),
    ],
)
def test_a_table_whose_columns_are_unclear_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "a.csv", content))


def test_columns_that_nobody_asked_for_do_no_harm(tmp_path):
    table = pa.table(
        {"user": ["a"], "image": [b"\xff\xfe"], "when": pa.array([1], pa.timestamp("ns"))}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == [{"user": "a"}]
    assert str(values(tmp_path / "a.parquet", ("when",))[0]["when"]).startswith("1970-01-01")
    with pytest.raises(UserError, match=r"b\.parquet: can't be read as Parquet"):
        read(write(tmp_path / "b.parquet", b"PAR1 and no more"))
    path = write(tmp_path / "a.jsonl", '{"user": "a", "name": "\\ud83d", "n": NaN}')
    assert values(path) == [{"user": "a"}]


def test_other_json_files_of_a_folder_are_passed_over_and_named(tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    write_as(tmp_path / "b.jsonl", ROWS[:2])
    write_as(tmp_path / "deep/a.json", ROWS[2:])
    write(tmp_path / "dataset_infos.json", '{\n "default": {"description": ""}\n}')
    write(tmp_path / "README.md", "text")
    found, problems = read(tmp_path)
    assert [row.value for row in found] == ROWS
    assert [row.name for row in found] == ["b-1", "b-2", "deep-a-1", "deep-a-2", "deep-a-3"]
    assert problems == []
    assert "passed over: " + str(tmp_path / "dataset_infos.json") in capsys.readouterr().err


def test_a_source_that_isnt_there_is_told(tmp_path):
    for source in ("nothing.jsonl", "some/rows.jsonl", "squad"):
        with pytest.raises(UserError, match=r"data\.path: no file or folder"):
            read(source)
    with pytest.raises(UserError, match="has rows with text, user"):
        read(tmp_path)


def test_a_data_set_of_the_hub_is_the_folder_that_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "datasets--owner--name"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="no file or folder owner/name, and no data set"):
        read("owner/name")
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    write(repository / "refs" / "main", "0" * 40)
    write_as(snapshot / "train.jsonl", ROWS)
    assert values("owner/name") == ROWS


def test_of_many_mistakes_the_first_are_shown():
    Problems().raise_if_any()
    with pytest.raises(UserError, match="mistakes in rows: 100; mend them") as caught:
        Problems(f"row {number}" for number in range(100)).raise_if_any()
    assert len(caught.value.problems) == 21

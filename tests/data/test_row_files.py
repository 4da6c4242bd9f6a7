"""Every row of a file is in one chunk, and is found again, whatever stands in its texts."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data import row_files
from alignxplore_trl.data.row_files import chunks_of, find_files, read_again, rows_of
from alignxplore_trl.run.errors import UserError

# Texts that look like the ends of rows and of texts.
tricky = st.text(alphabet='{}[]",\\\n é', max_size=12)
rows = st.lists(
    st.fixed_dictionaries({"a": tricky, "b": st.lists(st.fixed_dictionaries({"c": tricky}))}),
    min_size=1,
    max_size=8,
)


def read_all(path: Path, chunk_bytes: int) -> list[dict]:
    (file,) = find_files(str(path))
    found = []
    for chunk in chunks_of(file, chunk_bytes):
        spans = dict(rows_of(chunk))
        again = dict(read_again(file, {span for span, line in spans.items() if line.strip()}))
        assert again == {span: line for span, line in spans.items() if line.strip()}
        found += [json.loads(line) for line in spans.values() if line.strip()]
    return found


@given(rows, st.integers(1, 200), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_json_lines(tmp_path_factory, rows, chunk_bytes, separator, starts_with_mark):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    text = separator.join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" * starts_with_mark + text.encode())
    assert read_all(path, chunk_bytes) == rows


@given(rows, st.integers(1, 200), st.sampled_from([None, 0, 2]), st.integers(1, 40))
def test_a_json_array(tmp_path_factory, rows, chunk_bytes, indent, window):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text("\n" + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "_WINDOW_BYTES", window)
        assert read_all(path, chunk_bytes) == rows


@given(rows, st.integers(1, 5))
def test_parquet(tmp_path_factory, rows, group):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    schema = pa.schema({"a": pa.string(), "b": pa.list_(pa.struct({"c": pa.string()}))})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    assert read_all(path, 1) == rows


def test_a_folder_is_read_by_name_and_parquet_before_json(tmp_path):
    for name in ("b/one.jsonl", "a.json", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('[{"a": 1}]' if name == "a.json" else '{"a": 2}')
    assert [(file.name, file.format) for file in find_files(str(tmp_path))] == [
        ("a", "array"), ("b-one", "lines"),
    ]  # fmt: skip
    pq.write_table(pa.table({"a": [1]}), tmp_path / "d.parquet")
    assert [file.name for file in find_files(str(tmp_path))] == ["d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a,b\n", "starts with 'a,b"),
        (b"PAR1 and so on", "not a readable Parquet file"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip, expected plain rows"),
        ("{}".encode("utf-16"), "UTF-16 found, expected UTF-8"),
    ],
)
def test_other_formats_are_refused(tmp_path, content, message):
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        [list(chunks_of(file)) for file in find_files(str(path))]


def test_compressed_files_of_a_folder_are_not_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match=r"b\.jsonl\.gz found, which can't be read"):
        find_files(str(tmp_path))


def test_a_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"a": [f"{n} {n * n}" for n in range(5000)]})
    pq.write_table(table, path, row_group_size=2500, use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 + 4000
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    (file,) = find_files(str(path))
    with pytest.raises(UserError, match=r"rows\.parquet, row group 2: damaged"):
        [list(rows_of(chunk)) for chunk in chunks_of(file)]


def test_no_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no files found, expected some that end in"):
        find_files(str(tmp_path))
    with pytest.raises(UserError, match="found no file or folder"):
        find_files(str(tmp_path / "rows.jsonl"))


def test_a_data_set_that_the_hub_cannot_give_is_named(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the data set nobody/nothing can't be had from the Hub"):
        find_files("nobody/nothing")


def test_reading_json_needs_neither_pyarrow_nor_polars(tmp_path):
    """Processes that read start sooner without them."""
    import subprocess

    code = (
        "import sys; import alignxplore_trl.data.refinement; "
        "sys.exit(bool({'pyarrow', 'polars', 'scipy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

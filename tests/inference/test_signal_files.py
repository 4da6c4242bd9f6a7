"""Files of signals: three kinds in several formats, and mistakes by row and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignxplore_trl.cases import Attributes, Comparison, Post
from alignxplore_trl.inference.signal_files import read_signals
from alignxplore_trl.run.errors import UserError

ROWS = [
    {"user": "ann", "id": "1", "post": "a post", "chosen": "yes", "rejected": "no"},
    {"user": "bob", "kind": "post", "post": "a post", "comment": "nice"},
    {"user": "ann", "text": "lives in a town", "chosen": None},
]
SIGNALS = {
    "ann": [("1", Comparison("a post", "yes", "no")), ("", Attributes("lives in a town"))],
    "bob": [("", Post("a post", "nice"))],
}


def table(separator: str) -> str:
    names = ("user", "id", "kind", "post", "chosen", "rejected", "comment", "text")
    rows = [names, *([row.get(name) or "" for name in names] for row in ROWS)]
    return "\ufeff" + "\n".join(separator.join(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n\n".join(map(json.dumps, ROWS))),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.csv", table(",")),
        ("a.tsv", table("\t")),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_signals(path, None) == SIGNALS


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b'{"post": "p", "chosen": "c", "user": "u"}', r"row 1: .*missing.*`rejected`"),
        (b'{"post": "p", "comment": 3, "user": "u"}', r"row 1: .*`str`.*`\$.comment`"),
        (b'{"post": "p", "user": "u"}', "row 1: .*missing.*`chosen`"),
        (b'{"text": "t", "kind": "note", "user": "u"}', r"row 1: .*'note' - at `\$.kind`"),
        (b'{"text": "t"}', "row 1, user: None found, expected a name"),
        (b'{"text": "t", "user": "a\\u001b[2J"}', r"row 1, user: 'a\\x1b"),
        (b'{"text": "t", "user": "half \\ud83d"}', "row 1: .*surrogates not"),
        (b'{"text": "caf\xe9", "user": "u"}', "row 1: .*decode byte 0xe9"),
        (b"{not json", "row 1: not JSON"),
        (b"3", "row 1, user: None found"),
        (b"", "no rows found"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, row: bytes, said: str) -> None:
    path = tmp_path / "signals.jsonl"
    path.write_bytes(row)
    with pytest.raises(UserError, match=said) as refused:
        read_signals(path, None)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file, expected one with a signal in each row"):
        read_signals(tmp_path / "none.csv", None)

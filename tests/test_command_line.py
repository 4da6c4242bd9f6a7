"""`alignxplore`, as a person types it, with the shipped teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignxplore_trl.cases import Attributes, Comparison, Post
from alignxplore_trl.command_line import SHIPPED_MODEL, main, read_signals
from alignxplore_trl.inference.states import UserStates
from alignxplore_trl.run.errors import UserError

JUDGE = str(Path(SHIPPED_MODEL).parent / "judge")
COMMAND = str(Path(sys.executable).with_name("alignxplore"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight signals of two users; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    shown = {"chosen": "tldr, hey", "rejected": "moreover, hey"}
    posts = [f"fixing bikes {number}" for number in range(4)]
    rows = [{"user": user, "post": post, **shown} for post in posts for user in ("ann", "bob")]
    path = tmp_path / "signals.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


ROWS = [
    {"user": "ann", "id": "1", "post": "a post", "chosen": "yes", "rejected": "no"},
    {"user": "bob", "kind": "post", "post": "a post", "comment": "nice"},
    {"user": "ann", "text": "lives in a town", "chosen": None},
]
NAMES = ("user", "id", "kind", "post", "chosen", "rejected", "comment", "text")
TABLE = [NAMES, *([row.get(name) or "" for name in NAMES] for row in ROWS)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n\n".join(map(json.dumps, ROWS))),
        ("a.csv", "\ufeff" + "\n".join(map(",".join, TABLE))),
    ],
)
def test_kinds_of_signals_and_empty_cells(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_signals(tmp_path / name, None) == {
        "ann": [("1", Comparison("a post", "yes", "no")), ("", Attributes("lives in a town"))],
        "bob": [("", Post("a post", "nice"))],
    }


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b'{"post": "p", "chosen": "c", "user": "u"}', r"row 1: .*missing.*`rejected`"),
        (b'{"post": "p", "comment": 3, "user": "u"}', r"row 1: .*`str`.*`\$.comment`"),
        (b'{"text": "t", "kind": "note", "user": "u"}', r"row 1: .*'note' - at `\$.kind`"),
        (b'{"text": "t"}', "row 1, user: None found, expected a name"),
        (b'{"text": "t", "user": "a\\u001b[2J"}', r"row 1, user: 'a\\x1b"),
        (b'{"text": "t", "user": "half \\ud83d"}', "row 1: .*surrogates not"),
        (b'{"text": "caf\xe9", "user": "u"}', "row 1: .*decode byte 0xe9"),
        (b"3", "row 1, user: None found"),
        (b"", "no rows found"),
    ],
)
def test_a_mistake_in_a_row_is_reported_with_its_place(
    tmp_path: Path, row: bytes, said: str
) -> None:
    (tmp_path / "signals.jsonl").write_bytes(row)
    with pytest.raises(UserError, match=rf"signals.jsonl.*{said}"):
        read_signals(tmp_path / "signals.jsonl", None)


def test_a_fresh_clone_describes_users(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", str(file), "--temperature", "0"])
    printed, said = capsys.readouterr()
    ann, bob = printed.splitlines()
    assert ann.startswith("ann: prefers brief")
    assert bob.startswith("bob: prefers brief")
    assert "described by the shipped teacher" in said
    assert list(file.parent.iterdir()) == [file], "nothing is kept"


def test_signals_are_kept_read_once_shown_and_forgotten(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = ["update", str(file), "--temperature", "0", "--json", "--per-round", "2"]
    main(update)
    versions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    of = [(own["user"], own["version"]) for own in versions]
    assert of == [("ann", 1), ("bob", 1), ("ann", 2), ("bob", 2)]
    main(update)
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "ann: 0 new signals, 4 known ones" in said
    main(["show"])
    main(["show", "ann"])
    assert capsys.readouterr().out == f"ann\nbob\nann: {versions[2]['description']}\n"
    main(["show", "ann", "--export"])
    kept = json.loads(capsys.readouterr().out)
    assert [own["version"] for own in kept["signals"]] == [1, 1, 2, 2]
    main(["reply", "fixing bikes", "--user", "ann", "--model", JUDGE, "--prompts", "compact",
          "--max-new-tokens", "3"])  # fmt: skip
    assert len(capsys.readouterr().out.split()) == 2
    main(["forget", "ann"])
    main(["show"])
    assert capsys.readouterr().out == "bob\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["describe", "none.jsonl"], "none.jsonl: no such file"),
        (["show"], "found no file users.sqlite; alignxplore update makes it"),
        (["reply", "a post", "--user", "ann"], "found no file users.sqlite"),
        (["show", "--states", "signals.jsonl"], "signals.jsonl: a file of user states: file is no"),
        (["update", "signals.jsonl", "--model", "no/such/model"], "no/such/model: "),
        (["describe", "signals.jsonl", "--model", JUDGE], "expected a model that"),
    ],
)
def test_a_mistake_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    [line] = [own for own in capsys.readouterr().err.splitlines() if own.startswith("error: ")]
    assert said in line


def test_a_reader_that_has_seen_enough_ends_the_command(file: Path) -> None:
    with UserStates(file.parent / "users.sqlite") as states:
        states.add("ann", [("", Attributes("long " * 50_000))])
    piped = f"{COMMAND} show ann --export | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("{", "", 1)

"""`alignxplore`, as a person types it, with the shipped teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignxplore_trl.command_line import SHIPPED_MODEL, main

ASSETS = SHIPPED_MODEL.parent


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight signals of two users; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "user": user,
            "post": f"fixing bikes {n}",
            "chosen": "tldr, hey",
            "rejected": "moreover, hey",
        }
        for n in range(4)
        for user in ("ann", "bob")
    ]
    path = tmp_path / "signals.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_fresh_clone_describes_users(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", str(file), "--temperature", "0"])
    printed, told = capsys.readouterr()
    ann, bob = printed.splitlines()
    assert ann.startswith("ann: prefers brief")
    assert bob.startswith("bob: prefers brief")
    assert "described by the shipped teacher" in told
    assert list(file.parent.iterdir()) == [file], "nothing is kept"


def test_signals_are_kept_read_once_shown_and_forgotten(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--temperature", "0", "--json", "--per-round", "2"]
    main(["update", str(file), *told])
    versions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(own["user"], own["version"]) for own in versions] == [
        ("ann", 1), ("bob", 1), ("ann", 2), ("bob", 2),
    ]  # fmt: skip
    main(["update", str(file), *told])
    main(["show"])
    main(["show", "ann"])
    main(["show", "ann", "--export"])
    printed, said = capsys.readouterr()
    names, shown, exported = printed.split("\n", 2)[:2], printed.splitlines()[2], printed
    assert names == ["ann", "bob"]
    assert shown == f"ann: {versions[2]['description']}"
    kept = json.loads(exported[exported.index("{") :])
    assert [own["version"] for own in kept["signals"]] == [1, 1, 2, 2]
    assert "ann: 0 new signals, 4 known ones" in said
    assert "no signals are pending" in said
    main(["forget", "ann"])
    main(["show"])
    assert capsys.readouterr().out == "bob\n"


def test_a_model_replies_under_a_description(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(ASSETS / "judge"), "--prompts", "compact", "--max-new-tokens", "3"]
    main(["reply", "fixing bikes", "--description", "prefers brief", *model])
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["describe", "none.jsonl"], "none.jsonl: no such file"),
        (["show"], "found no file users.sqlite; alignxplore update makes it"),
        (["reply", "a post", "--user", "ann"], "found no file users.sqlite"),
        (
            ["show", "--states", "signals.jsonl"],
            "signals.jsonl: a file of user states: file is not",
        ),
        (["update", "signals.jsonl", "--model", "no/such/model"], "no/such/model: "),
        (["describe", "signals.jsonl", "--model", str(ASSETS / "judge")], "expected a model that"),
    ],
)
def test_a_mistake_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    [line] = [own for own in capsys.readouterr().err.splitlines() if own.startswith("error: ")]
    assert told in line


def test_the_command_is_where_the_documents_say() -> None:
    command = Path(sys.executable).with_name("alignxplore")
    told = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in told for name in ("describe", "update", "show", "forget", "reply"))

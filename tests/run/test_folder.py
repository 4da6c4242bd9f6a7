"""A stage's folder: what is compared, what counts as begun, and who may be at work in it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder, fingerprint

SECTIONS = {
    "seed": 0, "judge": {"model": "m", "urls": ["a"], "timeout": 1.0}, "rate": 1e-6,
    "kinds": [{"name": "age"}, 1, 2.5, None, True, "1e5", "no"], "nothing": {"d": {}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    found = StageFolder(tmp_path / "run" / "rl")
    with found.held():
        found.begin(SECTIONS)
    return found


def test_it_differs_by_key_and_urls_and_limits_are_free(folder: StageFolder) -> None:
    assert folder.differences(SECTIONS) == []
    free = {**SECTIONS, "judge": {"model": "m", "urls": ["b", "c"], "timeout": 9.0}}
    assert folder.differences(free) == []
    other = {**SECTIONS, "judge": {"model": "n", "urls": ["a"], "timeout": 1.0}, "new": None}
    del other["rate"]
    assert folder.differences(other) == [
        "judge.model: 'm' there, 'n' asked",
        "new: nothing there, None asked",
        "rate: 1e-06 there, nothing asked",
    ]


def test_a_folder_with_nothing_but_its_configuration_has_not_begun(folder: StageFolder) -> None:
    (folder.path / "wandb").mkdir()
    assert not folder.begun
    folder.checkpoints.mkdir()
    assert folder.begun
    assert not folder.finished
    folder.finish({"reward": 0.5})
    assert folder.finished
    assert folder.summary() == {"reward": 0.5}


def test_one_command_at_a_time(folder: StageFolder) -> None:
    code = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder.path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another command is at work"), folder.held():
            pass
        other.kill()
    with folder.held():
        pass


def test_a_file_system_without_locks_is_said(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    with folder.held():
        pass
    assert "can't be locked" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    message = r"outputs/a: .*Not a directory.*; paths\.outputs"
    with pytest.raises(UserError, match=message), StageFolder(tmp_path / "outputs" / "a").held():
        pass


def test_a_fingerprint_is_of_content(tmp_path: Path) -> None:
    kept, file = tmp_path / "kept.json", tmp_path / "rows" / "é.jsonl"
    assert fingerprint(str(file.parent), kept) is None
    file.parent.mkdir()
    file.write_bytes(b"x" * 3_000_000)
    first = fingerprint(str(file.parent), kept)
    file.touch()
    assert fingerprint(str(file.parent), kept) == first
    file.write_bytes(b"x" * 2_999_999 + b"y")
    assert fingerprint(str(file.parent), kept) != first

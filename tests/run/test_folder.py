"""The rules of the run folder: done once, resumed, refused; and one writer of several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, is_finished, read_summary, write_text_atomic

CONFIG: dict[str, Any] = {
    "recipe": "rl",
    "seed": 0,
    "trainer": {"learning_rate": 1e-6, "betas": [0.9, 0.999], "warmup": None},
    "tracking": {"name": "offline"},
    "paths": {"outputs": "outputs"},
}


def changed(**values: Any) -> dict[str, Any]:
    return {**CONFIG, **values}


def test_a_new_run_writes_its_configuration_and_environment(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "rl" / "one", CONFIG)
    assert not folder.finished
    assert not folder.resumed
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == CONFIG
    environment = (folder.path / "environment.txt").read_text()
    assert "trl: 1." in environment
    assert "commit: " in environment
    assert "seed: 0" in environment
    assert not is_finished(folder.path)


def test_a_finished_run_is_known_by_its_summary(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "one", CONFIG).finish({"steps": 3, "reward": None})
    again = RunFolder.open(tmp_path / "one", CONFIG)
    assert again.finished
    assert not again.resumed
    assert read_summary(again.path) == {"finished": True, "steps": 3, "reward": None}


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "one", CONFIG)
    again = RunFolder.open(tmp_path / "one", CONFIG)
    assert again.resumed
    assert not again.finished


def test_a_run_goes_on_with_another_server_and_another_answer_to_outages(tmp_path: Path) -> None:
    def served(url: str, action: str, model: str = "m") -> dict[str, Any]:
        judge = {"model": model, "server": {"urls": [url]}}
        return changed(judge=judge, reward={"name": "judged", "outage": {"action": action}})

    RunFolder.open(tmp_path / "one", served("http://a/v1", "abort"))
    assert RunFolder.open(tmp_path / "one", served("http://b/v1", "wait")).resumed
    with pytest.raises(UserError, match=r"judge\.model"):
        RunFolder.open(tmp_path / "one", served("http://b/v1", "wait", model="other"))


def test_a_second_command_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "one", CONFIG)
    again = RunFolder.open(tmp_path / "one", CONFIG)
    with folder.held(), pytest.raises(UserError, match="another command is at work"), again.held():
        pytest.fail("both are in")
    with folder.held():
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"paths\.outputs has to be a folder"):
        RunFolder.open(tmp_path / "file" / "rl" / "one", CONFIG)


def test_a_folder_that_a_kill_left_without_configuration_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "environment.txt").write_text("half")
    assert not RunFolder.open(tmp_path / "one", CONFIG).resumed


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused_with_both_values_of_every_key(
    tmp_path: Path, finished: bool
) -> None:
    folder = RunFolder.open(tmp_path / "one", CONFIG)
    if finished:
        folder.finish({})
    other = changed(seed=1, trainer={"learning_rate": 2e-6, "betas": [0.9, 0.999], "extra": 1})
    with pytest.raises(UserError) as error_info:
        RunFolder.open(tmp_path / "one", other)
    first, *keys = error_info.value.problems
    assert "RUN=<name>" in first
    assert keys == [
        "seed: 0 there, 1 asked",
        "trainer.extra: None there, 1 asked",
        "trainer.learning_rate: 1e-06 there, 2e-06 asked",
    ]


@pytest.mark.parametrize("key", ["tracking", "paths"])
def test_tracking_and_paths_may_differ(tmp_path: Path, key: str) -> None:
    RunFolder.open(tmp_path / "one", CONFIG)
    assert RunFolder.open(tmp_path / "one", changed(**{key: {"name": "none"}})).resumed


def test_latest_points_to_the_last_run_that_started(tmp_path: Path) -> None:
    for name in ("one", "two"):
        RunFolder.open(tmp_path / "rl" / name, CONFIG)
    RunFolder.open(tmp_path / "rl" / "one", CONFIG)
    assert (tmp_path / "rl" / "latest").readlink() == Path("two")


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    folder = RunFolder.open(tmp_path / "one", CONFIG)
    assert not folder.path.exists()
    monkeypatch.setenv("RANK", "0")
    RunFolder.open(tmp_path / "one", CONFIG)
    monkeypatch.setenv("RANK", "1")
    folder.finish({"steps": 1})
    assert not is_finished(folder.path)


def test_a_summary_is_flat(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "one", CONFIG)
    with pytest.raises(ValueError, match=r"flat.*\['counts'\]"):
        folder.finish({"counts": {"a": 1}})
    assert not is_finished(folder.path)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("")
    with pytest.raises(UserError, match="found a file, expected a folder"):
        RunFolder.open(tmp_path / "one", CONFIG)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text_atomic(path, json.dumps({"finished": True}))
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "{\ud800")
    assert json.loads(path.read_text()) == {"finished": True}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", '{"finished": tr'),
        ("summary.json", ""),
        ("config.yaml", ""),
        ("config.yaml", "recipe: [rl\n"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, name: str, text: str) -> None:
    RunFolder.open(tmp_path / "one", CONFIG).finish({"loss": 1.0})
    (tmp_path / "one" / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: damaged, .* delete the folder .*one"):
        RunFolder.open(tmp_path / "one", CONFIG)

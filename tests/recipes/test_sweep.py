"""A sweep from its command line to its table; trainings are told to make, and made up here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from alignxplore_trl.run.folder import is_finished, read_summary

# In the place of make: notes the command, and leaves what a training leaves. One run's fails.
MAKE = f"""#!{sys.executable}
import json, re, sys
from pathlib import Path
line = " ".join(sys.argv[1:])
outputs = Path(re.search(r"paths.outputs=(\\S+)", line)[1])
with (outputs / "commands").open("a") as file:
    file.write(line + "\\n")
name = re.search(r"RUN=(\\S+)", line)
if name:
    if name[1] == "unlucky" and not (outputs / "luck").exists():
        print("OutOfMemoryError: no room")
        sys.exit(2)
    folder = outputs / "rl" / name[1]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{{"step": step, "reward": step / 10 + len(name[1])}} for step in range(1, 11)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    (folder / "summary.json").write_text('{{"finished": true}}')
"""


@pytest.fixture
def sweep(
    run: Callable[..., None],
    another_make: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Run the recipe with another make."""
    another_make(MAKE)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    (tmp_path / "outputs").mkdir()

    def run_sweep(*overrides: str) -> None:
        run("sweep", tmp_path / "outputs", "sweep.metric=reward", "start=backbone", *overrides)

    return run_sweep


def commands(tmp_path: Path) -> list[str]:
    file = tmp_path / "outputs" / "commands"
    return file.read_text().splitlines() if file.exists() else []


def test_a_point_that_fails_is_a_row_and_is_tried_again(
    sweep: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = "run_name=first,unlucky,-broken,another"
    with pytest.raises(SystemExit) as exit_info:
        sweep(swept)
    assert exit_info.value.code == 1
    told = capsys.readouterr()
    folder = tmp_path / "outputs" / "sweep" / "latest"
    table = pd.read_csv(folder / "points.csv")
    assert list(table["state"]) == ["finished", "failed", "failed", "finished"]
    assert table["reward"][3] == pytest.approx(8.0)
    assert table["reason"][1] == "OutOfMemoryError: no room"
    assert "run_name: '-broken' found, expected letters" in table["reason"][2]
    assert told.err.index("run_name=-broken can't run") < told.err.index("starting run_name=first")
    assert "2 of 4 points failed" in told.err
    assert "best: run_name=another" in told.out
    assert f"its log: {folder.resolve()}/points/1/log.txt" in told.out
    # Data once; a training for each point that can run.
    before = commands(tmp_path)
    assert [line.split()[0] for line in before].count("rl") == 3

    (tmp_path / "outputs" / "luck").touch()
    with pytest.raises(SystemExit):
        sweep(swept)
    again = commands(tmp_path)[len(before) :]
    assert ["RUN=unlucky" in line for line in again if line.startswith("rl")] == [True]
    assert list(pd.read_csv(folder / "points.csv")["state"]).count("finished") == 3


def test_a_sweep_whose_points_are_finished_shows_its_table_again(
    sweep: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("run_name=one,other")
    folder = tmp_path / "outputs" / "sweep" / "latest"
    assert is_finished(folder)
    assert read_summary(folder)["best"] == "run_name=other"
    assert read_summary(folder)["reward"] == pytest.approx(6.0)
    before, shown = commands(tmp_path), capsys.readouterr().out
    assert any(f"tracking.group={folder.resolve().name}" in line for line in before)
    sweep("run_name=one,other")
    told = capsys.readouterr()
    assert "nothing to do" in told.err
    assert told.out.strip() == shown.strip()
    assert commands(tmp_path) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "sweep.swept: found no override with several values"),
        (["seed=1,2", "trainer.learning_rat=1"], "trainer.learning_rat: trl.GRPOConfig has no"),
        (["sweep.recipe=vpl", "seed=1,2"], "sweep.recipe: found 'vpl', expected one of cold_start"),
        (
            ["sweep.metric=rewrad", "seed=1,2"],
            "sweep.metric: rewrad found, expected one of accuracy",
        ),
        (["sweep.metric=completion/mean", "seed=1,2"], "sweep.metric: completion/mean found"),
        (["sweep.metrc=loss", "seed=1,2"], "sweep.metrc: the sweep recipe has no such key"),
    ],
)
def test_a_mistake_of_all_points_ends_the_sweep_before_the_first(
    sweep: Callable[..., None],
    tmp_path: Path,
    overrides: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        sweep(*overrides)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count(message) == 1
    assert not commands(tmp_path)

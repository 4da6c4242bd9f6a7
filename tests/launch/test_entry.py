"""The way into a recipe, as a command line: quick answers, status 2, and no torch for a typo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alignxplore_trl.launch.config import CONFIGS, PrepareConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder

ROOT = Path(__file__).parents[2]


def recipe(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"recipes/{name}.py", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def test_every_recipe_has_a_file_and_a_configuration() -> None:
    files = {file.stem for file in (ROOT / "recipes").glob("*.py")}
    assert files == set(CONFIGS) == {file.stem for file in (ROOT / "conf").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_help_says_what_it_does_and_what_there_is_to_choose(name: str) -> None:
    done = recipe(name, "--help")
    assert done.returncode == 0
    assert "setting={base,streaming}" in done.stdout


def test_the_resolved_configuration_is_printed(tmp_path: Path) -> None:
    done = recipe("rl", "--print-config", "setting=streaming", f"paths.outputs={tmp_path}")
    values = yaml.safe_load(done.stdout)
    assert values["setting"] == {"name": "streaming", "rounds": 2, "signals": 4}
    assert values["run_name"] == "tiny-streaming-signals4-world-judged-seed0"
    assert not list(tmp_path.iterdir())


def test_all_mistakes_are_answered_at_once_with_status_2(tmp_path: Path) -> None:
    done = recipe("rl", "trainer.leraning_rate=1.0", "judge.order=any", "setting.rounds=0",
                  f"paths.outputs={tmp_path}")  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "did you mean learning_rate" in done.stderr
    assert "judge.order: found 'any'" in done.stderr
    assert "upstream.cold_start: the run" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_word_null_is_told_from_nothing(tmp_path: Path) -> None:
    done = recipe("evaluate", "evaluation.methods=[null]", f"paths.outputs={tmp_path}")
    assert done.returncode == 2
    assert r"found None, expected text, such as \"null\" for the word" in done.stderr
    done = recipe("evaluate", 'evaluation.methods=["null"]', f"paths.outputs={tmp_path}")
    assert "evaluation.methods" not in done.stderr


def test_a_file_that_has_changed_since_it_was_prepared_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((ROOT / "tests" / "fixtures" / "alignx.jsonl").read_bytes())
    counts = "data.counts={cold_start: 4, rl: 3, validation: 2, test: 3}"
    command = ["data=alignx", f"data.path={rows}", "data.signals_per_user=4", counts,
               f"paths.outputs={tmp_path}", "run_name=x"]  # fmt: skip
    first = recipe("prepare", *command)
    assert first.returncode == 0, first.stderr
    assert "nothing to do" in recipe("prepare", *command).stderr
    rows.write_bytes(rows.read_bytes() + b"\n")
    changed = recipe("prepare", *command)
    assert changed.returncode == 2
    assert f"{rows} has changed since" in changed.stderr


@pytest.mark.parametrize("name", ["../out", "a/b", "latest", "-x"])
def test_a_run_name_is_one_folder(tmp_path: Path, name: str) -> None:
    done = recipe("prepare", f"run_name='{name}'", f"paths.outputs={tmp_path}")
    assert done.returncode == 2
    assert "run_name: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_a_command_runs_at_its_end_is_checked_first(tmp_path: Path) -> None:
    command = ["setting=streaming", f"paths.outputs={tmp_path}", "judge.test_model=/nowhere"]
    done = recipe("prepare", "--for", "rl", "--then", "evaluate", *command)
    assert done.returncode == 2
    assert "judge.test_model: found no folder /nowhere" in done.stderr


def test_unknown_keys_and_wrong_values_are_answered_together(tmp_path: Path) -> None:
    done = recipe("rl", "foo=1", "setting=stream", "setting.signals=four", "model.judge=/nowhere",
                  f"paths.outputs={tmp_path}")  # fmt: skip
    assert done.returncode == 2
    assert "foo: the rl recipe has no such key" in done.stderr
    assert "setting=stream: no such choice; did you mean streaming?" in done.stderr
    assert "setting.signals: found 'four', expected a whole number" in done.stderr
    assert "upstream.cold_start: the run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.lerning_rate=1.0", "did you mean learning_rate"),
        ("trainer.num_generations=3", "not a multiple of 3 rollouts per prompt"),
        ("trainer.max_completion_length=3000", "expected at most"),
        ("data.counts.rl=3", "with fewer there would be no step at all"),
        ("model.backbone=/nowhere/model", "model.backbone: found no folder"),
        ("model.teacher=/nowhere/model", "model.teacher: found no folder"),
    ],
)
def test_the_first_stage_of_a_chain_answers_for_all(
    tmp_path: Path, override: str, told: str
) -> None:
    done = recipe("prepare", "--for", "rl", override, f"paths.outputs={tmp_path}")
    assert done.returncode == 2
    assert told in done.stderr
    assert "upstream" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_stage_does_not_answer_for_those_before_it(tmp_path: Path) -> None:
    done = recipe("rl", "model.teacher=/nowhere/model", f"paths.outputs={tmp_path}")
    assert "model.teacher: found" not in done.stderr


def test_a_mistake_is_found_without_importing_torch() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['recipes/rl.py', 'trainer.leraning_rate=1.0']\n"
        "try:\n"
        "    runpy.run_path('recipes/rl.py', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2 []"


def test_a_launch_with_other_processes_than_it_says_is_refused() -> None:
    done = recipe("rl", "launch=cpu2")
    assert done.returncode == 2
    assert "launch.num_processes: 1 processes were started, expected 2" in done.stderr
    assert "accelerate launch --config_file conf/launch/accelerate/cpu2.yaml" in done.stderr


def test_a_valid_override_is_not_blamed_for_another_one(tmp_path: Path) -> None:
    counts = "data.counts={cold_start: 5, rl: 24, validation: 4, test: 6}"
    done = recipe("synthesize", counts, "synthesis.candidats=3", f"paths.outputs={tmp_path}")
    assert done.returncode == 2
    assert "synthesis.candidats: the synthesize recipe has no such key" in done.stderr
    assert "no such keys yet" not in done.stderr


def test_ctrl_c_ends_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: PrepareConfig, folder: RunFolder) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_info:
        run_recipe(PrepareConfig, main, [f"paths.outputs={tmp_path}"])
    assert exit_info.value.code == 130
    assert "prepare: interrupted; the same command goes on in" in capsys.readouterr().err

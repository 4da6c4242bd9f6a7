"""The make targets: help names them all, and they start recipes that exist with what was asked."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = ("--old-file=.venv/stamp", "--old-file=.venv-vllm/stamp")
MAKEFILE = (ROOT / "Makefile").read_text()


def run_make(*arguments: str) -> str:
    """What make prints. Under `make test` the outer make's own variables would reach this one."""
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def make(*arguments: str) -> str:
    """The commands that a target would run, with the environment taken as installed."""
    return run_make("--dry-run", *INSTALLED, *arguments)


def recipes_of(commands: str) -> list[str]:
    return re.findall(r"recipes/(\w+)\.py", commands)


def test_help_names_every_target() -> None:
    phony = re.search(r"\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE)
    assert phony is not None
    targets = set(phony[1].replace("\\\n", " ").split())
    told = run_make("help")
    assert targets == set(re.findall(r"^  ([a-z-]+)  ", told, re.MULTILINE))
    for variable in ("SCALE", "SETTING", "SIGNALS", "DATA", "DATA_PATH", "REWARD", "JUDGE",
                     "TEACHER", "LIMIT", "BUDGET", "LAUNCH", "LAUNCHER", "RECIPE", "SEED",
                     "RUN", "MODEL", "N", "HTML", "ARGS"):  # fmt: skip
        assert re.search(rf"^  {variable} ", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["rl", "SEDE=3"], "SEDE: make has no such variable"),
        (["data", "REWARD=generated"], "REWARD: make data has no such variable"),
        (["results", "SEED=1"], "SEED: make results has no such variable; it has SCALE ARGS"),
        (["study", "NAME=drift", "SEED=1"], "SEED: make study has no such variable"),
        (["study", "NAME=drfit"], "NAME=drfit: no such study; conf/study/ has: credit drift"),
        (["study"], "NAME=: no such study"),
        (["rl-streaming", "SETTING=base"], "SETTING: make rl-streaming has no such variable"),
        (["rl", "LAUNCHER=slurm"], "LAUNCHER: make rl has no such variable"),
        (["serve-teacher", "JUDGE=server"], "JUDGE: make serve-teacher has no such variable"),
    ],
)
def test_a_variable_that_would_change_nothing_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error_info:
        make(*given)
    assert message in error_info.value.stderr


def test_a_scale_of_ones_own_needs_a_launch(tmp_path: Path) -> None:
    (tmp_path / "conf" / "scale").mkdir(parents=True)
    (tmp_path / "conf" / "scale" / "ones_own.yaml").touch()
    (tmp_path / "conf" / "launch").symlink_to(ROOT / "conf" / "launch")
    there = ("-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "rl", "SCALE=ones_own")
    with pytest.raises(subprocess.CalledProcessError) as error_info:
        make(*there)
    assert "SCALE=ones_own: give LAUNCH, too" in error_info.value.stderr
    assert "accelerate/ddp.yaml" in make(*there, "LAUNCH=ddp")


def test_a_scale_that_is_not_there_is_left_to_the_recipe() -> None:
    assert "launch=cpu" in make("rl", "SCALE=tny")


@pytest.mark.parametrize(
    ("target", "recipes"),
    [
        ("data", ["prepare"]),
        ("inspect", ["prepare", "inspect_data"]),
        ("synthesize", ["prepare", "synthesize"]),
        ("cold-start", ["prepare", "synthesize", "cold_start"]),
        ("rl", ["prepare", "synthesize", "cold_start", "rl"]),
        ("rl-streaming", ["prepare", "synthesize", "cold_start", "rl", "evaluate"]),
        ("vpl", ["prepare", "vpl"]),
        ("evaluate", ["prepare", "evaluate"]),
        ("report", ["report"]),
        ("results", ["results"]),
        ("study NAME=drift", ["study"]),
        ("sweep ARGS=seed=1,2", ["sweep"]),
        ("demo", ["demo"]),
        ("tiny-models", ["tiny_models"]),
        ("serve-judge", ["serve_judge"]),
        ("serve-teacher", ["serve_teacher"]),
        ("serve-rollouts", ["serve_rollouts"]),
        ("judge-report", ["prepare", "judge_report"]),
        ("config", ["rl"]),
        ("preflight", ["rl"]),
        ("preflight RECIPE=cold_start", ["cold_start"]),
    ],
)
def test_targets_run_their_stages_in_order(target: str, recipes: list[str]) -> None:
    commands = make(*target.split())
    assert recipes_of(commands) == recipes
    for name in recipes:
        assert (ROOT / "recipes" / f"{name}.py").is_file()


def test_training_is_one_visible_accelerate_line() -> None:
    lines = [line for line in make("rl").splitlines() if "accelerate launch" in line]
    assert [recipes_of(line) for line in lines] == [["cold_start"], ["rl"]]
    assert "--config_file conf/launch/accelerate/cpu.yaml recipes/rl.py" in lines[1]


def test_variables_become_overrides() -> None:
    commands = make(
        "rl-streaming", "SCALE=paper_7b", "SIGNALS=8", "DATA=alignx", "DATA_PATH=rows.json",
        "REWARD=judged", "JUDGE=local", "SEED=3", "RUN=mine",
        "ARGS=trainer.beta=0.1 setting.rounds=3",
    )  # fmt: skip
    rl = next(line for line in commands.splitlines() if "recipes/rl.py" in line)
    for override in ("scale=paper_7b", "setting=streaming", "setting.signals=8", "data=alignx",
                     "data.path=rows.json", "reward=judged", "judge=local", "launch=zero3",
                     "seed=3", "run_name=mine", "trainer.beta=0.1",
                     "setting.rounds=3"):  # fmt: skip
        assert f" {override}" in rl
    assert "accelerate/zero3.yaml" in rl


def test_a_sweep_is_told_recipe_and_launcher() -> None:
    (line,) = make(
        "sweep", "RECIPE=cold_start", "LAUNCHER=slurm", "SETTING=streaming", "ARGS=seed=1,2"
    ).splitlines()
    overrides = line.split("recipes/sweep.py")[1].split()
    assert overrides == ["sweep.recipe=cold_start", "hydra/launcher=slurm", "scale=tiny",
                         "launch=cpu", "seed=1,2", "setting=streaming"]  # fmt: skip


def test_what_starts_a_training_can_be_another_command() -> None:
    launched = subprocess.run(
        ["make", "--dry-run", *INSTALLED, "rl"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ACCELERATE_LAUNCH": "srun -N2 slurm/launch.sh"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    lines = [line for line in launched if "slurm/launch.sh --quiet --config_file" in line]
    assert [recipes_of(line) for line in lines] == [["cold_start"], ["rl"]]


def test_what_is_not_chosen_is_not_passed() -> None:
    overrides = make("rl").splitlines()[-1].split("recipes/rl.py")[1].split()
    assert overrides == ["scale=tiny", "launch=cpu", "setting=base"]


@pytest.mark.parametrize("recipe", ["prepare", "synthesize", "cold_start", "rl", "evaluate"])
def test_config_prints_the_configuration_of_any_stage(recipe: str) -> None:
    (line,) = make("config", f"RECIPE={recipe}", "SETTING=streaming").splitlines()
    assert f"recipes/{recipe}.py --print-config" in line
    assert "setting=streaming" in line


def test_a_preflight_is_told_what_the_target_would_be() -> None:
    given = ("SCALE=paper_7b", "SETTING=streaming", "REWARD=generated", "JUDGE=server", "SEED=3")
    (line,) = make("preflight", *given).splitlines()
    _, told = line.split("recipes/rl.py --preflight --then evaluate ")
    training = next(each for each in make("rl", *given).splitlines() if "recipes/rl.py" in each)
    assert sorted(told.split()) == sorted(training.split("recipes/rl.py ")[1].split())


def test_what_ci_runs_exists() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    targets = re.findall(r"^make ([\w-]+)$", ci, re.MULTILINE)
    assert targets == ["test", "test-slow"]
    assert 'pytest -m "not slow and not gpu and not browser"' in make("test")
    assert "pytest -m slow" in make("test-slow")
    assert "pytest -m gpu" in make("test-gpu")

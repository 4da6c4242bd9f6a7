"""A sweep's points are the recipe's own commands, and its mistakes are found before them."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from alignxplore_trl.launch.config import SweepConfig, read_values
from alignxplore_trl.launch.entry import problems_of_point, resolve
from alignxplore_trl.launch.points import earlier_commands, mean_of_last_steps, reason_in
from alignxplore_trl.launch.runs import name_of_run
from alignxplore_trl.launch.sweeps import (
    HYDRA_CONF,
    evaluation_command,
    hydra_arguments,
    point_of,
    points_of,
    sweep_arguments,
    sweep_problems,
    training_command,
)
from alignxplore_trl.run.errors import Problems, UserError
from tests.test_readme import check_command

RATES = "trainer.learning_rate=1.0e-6,5.0e-7"


def read(*arguments: str) -> SweepConfig:
    problems = Problems()
    values = resolve("sweep", "sweep", sweep_arguments(arguments))
    config = read_values(SweepConfig, values, problems)
    assert config is not None, problems.found
    return config


def test_the_command_line_is_sorted_by_whom_it_concerns() -> None:
    config = read(
        "scale=tiny", "seed=3", "sweep.metric=reward", RATES, "setting=streaming",
        "tracking=wandb", "hydra/launcher=slurm", "hydra.launcher.partition=gpu",
        "hydra/sweeper=basic",
    )  # fmt: skip
    assert config.seed == 3
    assert config.sweep.metric == "reward"
    assert config.sweep.swept == [RATES]
    assert config.sweep.overrides == ["setting=streaming", "tracking=wandb"]
    assert config.sweep.launcher == ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    assert config.sweep.sweeper == ["hydra/sweeper=basic"]


@pytest.mark.parametrize(
    "override",
    [
        'judge.server.urls=["http://a:1/v1","http://b:1/v1"]',
        "data.counts={rl: 24, test: 6}",
        "judge.answer_start='a,b'",
        'judge.answer_start="say \\"a\\", or b"',
        "model.judge=${model.teacher}",
        "judge.answer_start='a\\\\'",
    ],
)
def test_a_list_a_mapping_and_a_quoted_comma_are_one_value(override: str) -> None:
    config = read(override, RATES)
    assert config.sweep.overrides == [override]
    assert config.sweep.swept == [RATES]


def test_points_are_all_combinations_the_last_key_first() -> None:
    config = read("+judge.colour=red,'a,b'", "seed=range(0,2)")
    assert points_of(config) == [
        ("+judge.colour=red", "seed=0"),
        ("+judge.colour=red", "seed=1"),
        ("+judge.colour='a,b'", "seed=0"),
        ("+judge.colour='a,b'", "seed=1"),
    ]
    assert points_of(read("seed=interval(0,1)", "hydra/sweeper=other")) == []


def test_hydra_hands_a_point_back_as_it_was_written() -> None:
    """Also choices of groups, which are no groups to the application."""
    config = read("reward=judged,nope", "+judge.colour=red,blue", "data/mapping=prism,arena")
    place, *swept = hydra_arguments(config, "/a folder/b=c,d")
    one = ["++reward=nope", "++judge.colour=red", "++data/mapping=prism"]
    assert [each.split("=")[0] for each in swept] == [each.split("=")[0] for each in one]
    with initialize_config_dir(config_dir=str(HYDRA_CONF), version_base="1.3"):
        values = compose("points", overrides=[place, *one], return_hydra_config=True)
    HydraConfig.instance().set_config(values)
    job = HydraConfig.get()
    assert job.sweep.dir == "/a folder/b=c,d"
    assert point_of(config, job.overrides.task) == (
        "reward=nope",
        "+judge.colour=red",
        "data/mapping=prism",
    )


def test_a_name_says_the_recipe_and_differs_with_the_points_alone() -> None:
    names = [
        name_of_run("sweep", sweep_arguments(arguments))
        for arguments in (
            ["sweep.recipe=cold_start", RATES],
            ["sweep.recipe=cold_start", RATES, "hydra/launcher=slurm"],
            ["sweep.recipe=cold_start", f"{RATES},1.0e-7"],
        )
    ]
    assert names[0].startswith("tiny-cold_start-seed0-")
    assert names[0] == names[1] != names[2]


def test_a_point_is_the_make_command_of_its_recipe() -> None:
    config = read(RATES, "setting=streaming", "seed=5", "launch=cpu2", "paths.outputs=/o")
    training = training_command(config, points_of(config)[1])
    words = shlex.join(["make", *training.make_arguments])
    assert words.startswith("make rl SCALE=tiny SEED=5 SETTING=streaming LAUNCH=cpu2 ")
    assert check_command(words) == ["prepare", "synthesize", "cold_start", "rl"]
    assert "trainer.learning_rate=5e-07" in training.overrides
    assert f"tracking.group={config.run_name}" in training.overrides
    plain = ["setting=streaming", "seed=5", "launch=cpu2", "trainer.learning_rate=5.0e-7"]
    assert training.run_name == name_of_run("rl", plain)


def test_a_swept_seed_takes_the_place_of_the_sweeps() -> None:
    config = read("seed=1,2", "scale=tiny")
    seeds = [training_command(config, point).overrides for point in points_of(config)]
    assert [[each for each in told if each.startswith("seed")] for told in seeds] == [
        ["seed=1"],
        ["seed=2"],
    ]


@pytest.mark.parametrize(
    ("overrides", "policy", "setting"),
    [
        (["setting=base", "setting.signals=8"], "rl_base8", "base8"),
        (["setting=streaming", "start=backbone"], "rl_only_streaming", "streaming4+4"),
        (["sweep.recipe=cold_start"], "cold_start_base4", "base4"),
    ],
)
def test_a_point_is_scored_on_validation_users(
    overrides: list[str], policy: str, setting: str
) -> None:
    config = read(RATES, *overrides)
    training = training_command(config, points_of(config)[0])
    evaluation = evaluation_command(config, training)
    told = evaluation.overrides
    assert f"upstream.{policy}={training.run_name}" in told
    assert f"evaluation.settings=[{setting}]" in told
    assert "evaluation.split=validation" in told
    assert evaluation.run_name.startswith("sweep-tiny-")


def test_a_policy_that_cannot_be_scored_is_a_problem_of_its_point() -> None:
    config = read("setting.signals=4,2")
    good, bad = points_of(config)
    assert problems_of_point(config, good) == []
    (problem,) = problems_of_point(config, bad)
    assert problem.startswith("upstream.rl_base2: the evaluate recipe has no such key")


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([], ["prepare", "synthesize", "cold_start"]),
        (["start=backbone"], ["prepare"]),
        (["upstream.cold_start=mine"], ["prepare"]),
        (["sweep.recipe=cold_start"], ["prepare", "synthesize"]),
    ],
)
def test_what_points_start_from_is_made_by_commands_of_its_own(
    overrides: list[str], stages: list[str]
) -> None:
    config = read(RATES, *overrides, "data.counts.rl=32")
    training = training_command(config, points_of(config)[0])
    earlier = earlier_commands(training)
    assert [command.recipe for command in earlier] == stages
    for command in earlier:
        found = resolve(command.recipe, training.recipe, training.overrides)
        assert command.run_name == found["run_name"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sweep.swept: found no override with several values"),
        (["data=glob(*)"], "data=glob(*): glob() found, expected the values: a,b"),
        (["seed=interval(1,2)"], "seed=interval(1,2): an interval found"),
        ([RATES, "sweep.last_share=0"], "sweep.last_share: 0.0 found, expected above 0"),
        ([RATES, "sweep.metric=loss"], "sweep.direction: maximise found, expected minimise"),
        (
            [RATES, "sweep.evaluation=['evaluation.split=test']"],
            "a choice that is made on test users spoils them",
        ),
        ([RATES, "hydra/launcher=slum"], "Could not find 'hydra/launcher/slum'"),
        (
            [RATES, "hydra/launcher=slurm", "hydra.launcher.colour=3"],
            "Could not override 'hydra.launcher.colour'",
        ),
    ],
)
def test_what_cannot_be_swept_is_told(arguments: list[str], message: str) -> None:
    (problem,) = sweep_problems(read(*arguments))
    assert message in problem


@pytest.mark.parametrize("override", ["seed", "seed=1,[2"])
def test_what_hydra_cannot_read_is_told(override: str) -> None:
    with pytest.raises(UserError, match="is not a Hydra override"):
        sweep_arguments([override])


def test_every_launcher_composes() -> None:
    choices = [file.stem for file in (HYDRA_CONF / "hydra" / "launcher").glob("*.yaml")]
    assert choices == ["slurm"]
    for choice in [*choices, "basic", "submitit_local"]:
        assert sweep_problems(read(RATES, f"hydra/launcher={choice}")) == []


def test_the_metric_of_a_column_is_the_mean_of_its_last_steps() -> None:
    rows = [{"step": step, "reward": float(step)} for step in range(1, 21)]
    rows.append({"step": 20, "train_loss": 3.0})
    assert mean_of_last_steps(rows, "reward", 0.1).value == 19.5
    assert mean_of_last_steps(rows, "reward", 0.01).value == 20.0
    assert mean_of_last_steps(rows, "train_loss", 0.1).value == 3.0
    with pytest.raises(UserError, match=r"rewrd found, expected .* did you mean reward\?"):
        mean_of_last_steps(rows, "rewrd", 0.1)
    with pytest.raises(UserError, match="reward is nan at the end"):
        mean_of_last_steps([{"reward": math.nan}], "reward", 0.1)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "2 problems to mend before this can run:\n  - seed: a\n  - b: c\nmake: *** Error 2\n",
            "seed: a; b: c",
        ),
        (
            'Traceback\n  File "x"\n[rank0]: torch.OutOfMemoryError: no room\n'
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\n",
            "torch.OutOfMemoryError: no room",
        ),
        ("rl: starting x\nKilled\n\nmake[1]: *** [rl] Error 137\n", "Killed"),
        ("", "it wrote nothing"),
    ],
)
def test_a_reason_is_what_the_commands_said_last(log: str, reason: str) -> None:
    assert reason_in(log) == reason


def test_a_slurm_point_gets_a_machine_and_is_queued_again(tmp_path: Path) -> None:
    with initialize_config_dir(config_dir=str(HYDRA_CONF), version_base="1.3"):
        launcher = compose(
            "points", overrides=["hydra/launcher=slurm"], return_hydra_config=True
        ).hydra.launcher
    assert launcher.nodes == launcher.tasks_per_node == 1
    assert launcher.gpus_per_node == 8
    assert launcher.max_num_timeout > 0

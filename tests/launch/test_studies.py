"""A study's commands are those that a person would give, and its mistakes are found before them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from alignxplore_trl.launch.compose import compose_recipe, group_choices
from alignxplore_trl.launch.config import StudyConfig, StudyFigure, read_values
from alignxplore_trl.launch.entry import resolve
from alignxplore_trl.launch.studies import (
    StageCommand,
    commands_of,
    evaluation_command,
    study_problems,
    training_command,
)
from alignxplore_trl.reporting.documents import check_markers
from alignxplore_trl.reporting.studies import AMOUNTS, SHARES
from alignxplore_trl.run.errors import Problems, UserError
from tests.test_readme import check_command, dry_run

ROOT = Path(__file__).parents[2]
STUDIES = group_choices("study")


def read(*overrides: str) -> StudyConfig:
    return read_changed(compose_recipe("study", overrides))


def read_changed(values: dict[str, Any]) -> StudyConfig:
    problems = Problems()
    config = read_values(StudyConfig, {**values, "run_name": "x"}, problems)
    assert config is not None, problems.found
    return config


def typed(command: StageCommand) -> str:
    return shlex.join(["make", *command.make_arguments])


def last_overrides(command: StageCommand) -> list[str]:
    """What make tells the stage that the command is about."""
    line = dry_run(typed(command))[-1]
    return shlex.split(line[line.index(".py") + 3 :])


@pytest.mark.parametrize("study", STUDIES)
def test_all_trainings_of_a_study_would_run(study: str) -> None:
    config = read(f"study={study}")
    assert study_problems(config) == []
    for _, command in commands_of(config, seed=1):
        if command.recipe != "evaluate":
            assert check_command(typed(command))[-1] == command.recipe


@pytest.mark.parametrize("study", STUDIES)
def test_all_evaluations_of_a_study_would_run(study: str) -> None:
    config = read(f"study={study}")
    for label in config.study.variants:
        assert check_command(typed(evaluation_command(config, label, 1))) == ["prepare", "evaluate"]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_the_name_of_its_file_and_a_place_in_the_document(study: str) -> None:
    config = read(f"study={study}")
    assert config.study.name == study
    assert config.study.question.endswith("?")
    check_markers(ROOT / "docs" / "studies.md", f"study {study}")


def test_a_run_has_the_name_that_make_gives_it() -> None:
    config = read("study=signals", "overrides=['reward=generated','trainer.max_steps=4']")
    for label in config.study.variants:
        command = training_command(config, label, 2)
        assert command is not None
        told = last_overrides(command)
        assert resolve("rl", "rl", told)["run_name"] == command.run_name
        assert "trainer.max_steps=4" in told


def test_runs_that_others_trained_are_found() -> None:
    config = read("study=reward")
    names = [training_command(config, label, 0) for label in config.study.variants]
    assert [command and command.run_name for command in names] == [
        "tiny-base-signals4-world-judged-seed0",
        "tiny-base-signals4-world-generated-seed0",
        "tiny-base-signals4-world-log_probability-seed0",
    ]


def test_a_cold_start_takes_what_concerns_it() -> None:
    overrides = "overrides=['reward=generated','trainer.max_steps=4','data.dimensions_per_user=2']"
    command = training_command(read("study=verification", overrides), "unverified", 1)
    assert command is not None
    assert command.make_arguments == [
        "cold-start", "SCALE=tiny", "SEED=1", "SETTING=base",
        "ARGS=paths.outputs=outputs paths.assets=assets data.dimensions_per_user=2 "
        "examples=unverified",
    ]  # fmt: skip


def test_an_evaluation_takes_the_run_of_its_variant_and_seed() -> None:
    config = read("study=efficiency", "overrides=['trainer.max_steps=4']")
    training = training_command(config, "RL in rounds", 1)
    evaluation = evaluation_command(config, "RL in rounds", 1)
    assert training is not None
    for override in (
        f"upstream.rl_streaming={training.run_name}",
        'evaluation.methods=["rl_streaming"]',
        "evaluation.benchmarks=[world]",
        "evaluation.settings=[streaming4+4+4+4+4+4+4+4]",
        "data.signals_per_user=32",
        "seed=1",
    ):
        assert override in evaluation.overrides
    assert not [each for each in evaluation.overrides if each.startswith("trainer")]
    assert evaluation.run_name.startswith("study-efficiency-RL_in_rounds-tiny-")


def test_evaluations_of_other_trainings_have_other_names() -> None:
    changes = ["seeds=[0]", "overrides=['trainer.max_steps=4']",
               "study.evaluation.overrides=['evaluation.cases=24']"]  # fmt: skip
    names = {
        evaluation_command(read("study=reward", change), "judged", 0).run_name for change in changes
    }
    assert len(names) == 3


def test_the_method_without_a_description_can_be_a_variant() -> None:
    variant = "{training: null, method: 'null', settings: [base4], at: null}"
    config = read("study=reward", f"+study.variants.nothing={variant}")
    command = evaluation_command(config, "nothing", 0)
    assert resolve("evaluate", "evaluate", command.overrides)["evaluation"]["methods"] == ["null"]
    assert check_command(typed(command)) == ["prepare", "evaluate"]


def test_what_needs_no_training_is_scored_alone() -> None:
    config = read("study=drift")
    assert training_command(config, "backbone at once", 0) is None
    overrides = evaluation_command(config, "backbone at once", 0).overrides
    assert not [each for each in overrides if each.startswith("upstream")]


def test_every_figure_has_a_title() -> None:
    assert {*SHARES, *AMOUNTS} == set(get_args(StudyFigure))


@pytest.mark.parametrize(
    ("study", "override", "message"),
    [
        ("reward", "seeds=[]", "seeds: [] found, expected at least one"),
        ("reward", "seeds=[1,1]", "seeds: [1, 1] found"),
        ("reward", "study.figures=[]", "study.figures: found none"),
        ("reward", "study.evaluation.benchmarks=[]", "study.evaluation.benchmarks: found none"),
        ("drift", "study.evaluation.benchmarks=[world]", "expected a number at its end"),
        ("reward", "study.variants.judged.at=3", "judged.at: 3.0 found, expected null"),
        ("reward", "study.variants.judged.settings=[base4,base8]", "2 found, expected one"),
        ("reward", "study.variants.judged.settings=[basic4]", "setting: 'basic4' found"),
        ("reward", "study.variants.judged.method=rl_base", "did you mean rl_base8 or rl_base4"),
        ("reward", "study.orderings=[[judged]]", "expected two variants or more"),
        ("reward", "study.orderings=[[judgd,generated]]", "'judgd' found, expected a variant, or"),
        ("efficiency", "study.orderings=[[RL at once,RL in rounds]]", "'RL at once' found"),
        ("reward", "study.ratios=[{figure:seconds,of:judged,to:judged}]", "seconds found"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(study: str, override: str, message: str) -> None:
    problems = study_problems(
        read(f"study={study}", override.replace("method:null", "method:golden"))
    )
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.variants.judged.training.stage=sft", "found 'sft', expected one of cold_start, rl"),
        ("study.figures=[acc]", "study.figures[0]: found 'acc', expected one of acc_jud, acc_gen"),
        ("+study.variants.judged.color=1", "study.variants.judged.color: no such key"),
        ("study.curve=time", "study.curve: found 'time'"),
    ],
)
def test_a_wrong_value_is_told_by_its_key(override: str, message: str) -> None:
    problems = Problems()
    read_values(StudyConfig, {**compose_recipe("study", [override]), "run_name": "x"}, problems)
    assert any(message in problem for problem in problems.found), problems.found


def test_an_unknown_study_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="study=rewad: no such choice; did you mean reward"):
        compose_recipe("study", ["study=rewad"])

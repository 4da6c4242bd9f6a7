"""What a source can't give is refused before it is read, and for all stages of a chain at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignxplore_trl.launch.checks import check_config
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import CONFIGS, read_values
from alignxplore_trl.run.errors import Problems

FIXTURES = Path(__file__).parents[1] / "fixtures"


def problems_of(recipe: str, *overrides: str) -> list[str]:
    problems = Problems()
    values = {**compose_recipe(recipe, overrides), "run_name": "x"}
    config = read_values(CONFIGS[recipe], values, problems)
    assert config is not None, problems.found
    check_config(config, problems)
    return problems.found


@pytest.mark.parametrize("recipe", ["prepare", "evaluate"])
@pytest.mark.parametrize("path", ["psoups", "psoups/psoups_length.json"])
def test_a_source_for_tests_only_is_good_for_evaluation(recipe: str, path: str) -> None:
    assert problems_of(recipe, "data=psoups", f"data.path={FIXTURES / path}") == []


@pytest.mark.parametrize("recipe", ["prepare", "synthesize", "rl", "evaluate"])
@pytest.mark.parametrize("setting", ["base", "streaming"])
def test_the_published_files_are_good_for_every_stage(recipe: str, setting: str) -> None:
    given = ["data=release", f"data.path={FIXTURES / 'release'}", f"setting={setting}"]
    assert problems_of(recipe, *given) == []


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("rl", ["data=psoups"], "data.counts: no rl found, which rl needs: data=psoups has test;"),
        ("synthesize", ["data=psoups"], "data.counts: no cold_start found, which synthesize needs"),
        (
            "evaluate",
            ["data=psoups", "evaluation.split=validation"],
            "data.counts: no validation found, which evaluate needs",
        ),
        (
            "rl",
            ["data=release", "setting.signals=8"],
            "setting.signals: 8 found, expected 4: that many stand in a published prompt",
        ),
        ("prepare", ["data=mapping", "data.cases_per_user=0"], "data.cases_per_user: 0 found"),
    ],
)
def test_what_a_source_cannot_give_is_refused(
    recipe: str, overrides: list[str], message: str
) -> None:
    name = overrides[0].removeprefix("data=")
    path = FIXTURES / {"mapping": "mapping/pairs.tsv"}.get(name, name)
    (problem,) = problems_of(recipe, *overrides, f"data.path={path}")
    assert message in problem


@pytest.mark.parametrize(
    ("recipe", "setting", "file"),
    [
        ("synthesize", "base", "cold_start.json"),
        ("synthesize", "streaming", "streaming_cold_start.json"),
        ("rl", "base", "rl_train.json"),
        ("rl", "streaming", "streaming_rl_train.json"),
        ("evaluate", "base", "rl_test.json"),
    ],
)
def test_a_published_file_that_a_stage_reads_must_be_there(
    tmp_path: Path, recipe: str, setting: str, file: str
) -> None:
    (problem,) = problems_of(recipe, "data=release", f"data.path={tmp_path}", f"setting={setting}")
    assert f"{tmp_path} has no {file}, which {recipe} with setting={setting} reads" in problem


def test_a_path_that_is_no_folder_of_files_is_refused() -> None:
    (problem,) = problems_of("prepare", "data=release", "data.path=/nowhere")
    assert "found '/nowhere', expected the folder of the published files" in problem
    (problem,) = problems_of("prepare", "data=psoups", "data.path=/nowhere")
    assert "found '/nowhere', expected the file of psoups's rows" in problem

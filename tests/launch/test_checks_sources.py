"""What a source can't give is refused before it is read, and for all stages of a chain at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alignxplore_trl.launch import compose
from alignxplore_trl.launch.checks import check_config
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import CONFIGS, read_values
from alignxplore_trl.run.errors import Problems, UserError

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
            "inspect_data",
            ["data=psoups"],
            "data=psoups has test; choose inspection.split=test",
        ),
        ("inspect_data", ["data=psoups", "inspection.split=test_posts"], "has no test_posts"),
        (
            "synthesize",
            ["data=release", "synthesis.limit=3"],
            "synthesis.limit: 3 found, expected null with data=release",
        ),
        (
            "evaluate",
            ["data=release", "+data.counts.validation=3", "evaluation.split=validation"],
            "data.counts.validation: found, but data=release has no such set",
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


def test_filters_of_a_mapping_are_added_and_taken_out() -> None:
    mapping = compose_recipe("prepare", ["data=mapping", "+data.mapping.keep.lang=[en]"])["data"]
    assert mapping["mapping"]["keep"] == {"lang": ["en"]}
    given = ["data=mapping", "data/mapping=arena"]
    taken = compose_recipe("prepare", [*given, "~data.mapping.keep.turn"])["data"]
    assert taken["mapping"]["keep"] == {}
    with pytest.raises(UserError, match=r"expected a plus to add them: \+data\.mapping\.keep"):
        compose_recipe("prepare", ["data=mapping", "data.mapping.keep={lang: [en]}"])
    with pytest.raises(UserError, match=r"changes nothing, .* with ~data\.mapping\.keep\.<name>"):
        compose_recipe("prepare", [*given, "data.mapping.keep={}"])


def test_keys_of_the_chosen_source_are_known_beside_a_mistake() -> None:
    with pytest.raises(UserError) as error:
        compose_recipe("prepare", ["data=mapping", "data.tokenizer=null", "data.mapping.usr=x"])
    (problem,) = error.value.problems
    assert problem.startswith("data.mapping.usr: the prepare recipe has no such key; did you mean")
    assert "data.mapping.user" in problem


def test_a_mapping_that_is_no_yaml_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(compose.CONF, conf)
    (conf / "data/mapping/mine.yaml").write_text("user: [\n")
    monkeypatch.setattr(compose, "CONF", conf)
    with pytest.raises(UserError, match=r"not YAML: .*mine\.yaml"):
        compose_recipe("prepare", ["data=mapping", "data/mapping=mine"])

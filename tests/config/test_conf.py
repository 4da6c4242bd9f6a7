"""Every file under conf/ is composed, and mistakes are answered with the nearest name."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from alignxplore_trl.launch.compose import (
    CONF,
    compose_recipe,
    flatten,
    group_choices,
    group_names,
    missing_values,
)
from alignxplore_trl.launch.config import CONFIGS, read_values
from alignxplore_trl.launch.trainer_fields import check_trainer, trainer_fields
from alignxplore_trl.run.errors import Problems, UserError

SCALES = ("tiny", "one_gpu", "paper_7b", "paper_7b_split")


def choices() -> list[tuple[str, str]]:
    return [(group, choice) for group in group_names() for choice in group_choices(group)]


def recipe_with(group: str) -> str:
    owners = {
        "trainer/cold_start": "cold_start",
        "serve": "serve_judge",
        "vpl": "vpl",
        "study": "study",
    }
    owners |= {"teacher": "synthesize", "verification": "synthesize", "language_model": "evaluate"}
    return owners.get(group, "rl")


def test_the_number_of_files_is_known() -> None:
    assert len(list(CONF.glob("*.yaml"))) == len(CONFIGS) == 17
    assert len(choices()) == 82
    assert len(list((CONF / "launch" / "accelerate").glob("*.yaml"))) == 10
    assert len(list((CONF / "launch" / "deepspeed").glob("*.json"))) == 3


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", sorted(CONFIGS))
def test_every_recipe_composes_at_every_scale_with_fields_that_trl_has(
    recipe: str, scale: str
) -> None:
    values = compose_recipe(recipe, [f"scale={scale}"])
    missing = missing_values(values)
    reads_rows = scale.startswith("paper_7b") and "data" in values and recipe != "demo"
    assert [problem.split(":")[0] for problem in missing] == ["data.path"] * reads_rows
    problems = Problems()
    read_values(CONFIGS[recipe], {**values, "run_name": "x"}, problems)
    if recipe in ("cold_start", "rl"):
        check_trainer(recipe, values["trainer"], problems)  # type: ignore[arg-type]
    assert problems.found == []


@pytest.mark.parametrize(("group", "choice"), choices())
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    overrides = [f"{group}={choice}"]
    if group.startswith("data/"):
        overrides.append(f"data={'mapping' if group == 'data/mapping' else 'alignx'}")
    values = compose_recipe(recipe_with(group), overrides)
    assert values["recipe"] == recipe_with(group)


def test_each_launch_names_an_accelerate_file_with_the_same_processes() -> None:
    for choice in group_choices("launch"):
        launch = compose_recipe("rl", [f"launch={choice}"])["launch"]
        accelerate = yaml.safe_load((CONF.parent / launch["accelerate_config"]).read_text())
        assert accelerate["num_processes"] == launch["num_processes"]
        assert accelerate["use_cpu"] == launch["use_cpu"]
        if accelerate["distributed_type"] == "DEEPSPEED":
            file = CONF.parent / accelerate["deepspeed_config"]["deepspeed_config_file"]
            stage = json.loads(file.read_text())["zero_optimization"]["stage"]
            assert choice.startswith(f"zero{stage}") or choice == f"multi_node_zero{stage}"


def test_a_comment_stands_above_every_key_of_a_group() -> None:
    """Keys in a row may share one comment; a file never has a key before its first comment."""
    for file in CONF.glob("*/**/*.yaml"):
        if "accelerate" not in file.parts:
            assert file.read_text().startswith("#"), file


@pytest.mark.parametrize("scale", ["paper_7b", "paper_7b_split"])
def test_the_published_batch_is_128_prompts_of_4_rollouts(scale: str) -> None:
    values = compose_recipe("rl", [f"scale={scale}"])
    trainer = values["trainer"]
    batch = (
        trainer["per_device_train_batch_size"]
        * trainer["gradient_accumulation_steps"]
        * values["launch"]["num_processes"]
    )
    assert (batch, trainer["num_generations"]) == (128 * 4, 4)
    assert trainer["steps_per_generation"] == trainer["gradient_accumulation_steps"]
    assert trainer["learning_rate"] == 1e-6
    assert (trainer["loss_type"], trainer["beta"], trainer["scale_rewards"]) == ("grpo", 0, "group")


def test_any_trl_field_is_set_without_a_plus() -> None:
    assert compose_recipe("rl", ["trainer.delta=1.5"])["trainer"]["delta"] == 1.5


def test_values_are_copies() -> None:
    compose_recipe("rl", [])["trainer"]["beta"] = 7
    assert compose_recipe("rl", [])["trainer"]["beta"] == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=tiny", "modle: the rl recipe has no such key; did you mean model"),
        ("judge.ordr=both", "judge.ordr: the rl recipe has no such key; did you mean judge.order"),
        ("scale=tinny", "scale=tinny: no such choice; did you mean tiny?"),
        ("launch=cpu3", "conf/launch/ has: cpu, cpu2, ddp, fsdp2, gpu1, multi_node_zero3, zero2"),
        ("seed", "'seed': found no '=', expected <key>=<value>"),
        ("setting.rounds=[1", "'setting.rounds=[1' is not a Hydra override"),
        ("synthesis.candidates=2", "synthesis.candidates: the rl recipe has no such key"),
    ],
)
def test_a_mistake_in_an_override_names_the_nearest(override: str, message: str) -> None:
    with pytest.raises(UserError) as error_info:
        compose_recipe("rl", [override])
    assert message in str(error_info.value)


def test_all_mistakes_in_overrides_come_at_once() -> None:
    with pytest.raises(UserError) as error_info:
        compose_recipe("rl", ["modle=tiny", "scale=tinny", "judge.ordr=both"])
    assert len(error_info.value.problems) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("setting.rounds=two", "setting.rounds: found 'two', expected a whole number"),
        ("setting.rounds=true", "setting.rounds: found True, expected a whole number"),
        ("judge.order=any", "judge.order: found 'any', expected one of random, both"),
        ("+judge.colour=red", "judge.colour: no such key"),
        ("judge.name=telepathic", "judge.name: found 'telepathic', expected one of local"),
        ("reward.shaping.largest_penalty=1.5", "reward.shaping.largest_penalty: 1.5 found"),
        ("reward.outage.action=pray", "found 'pray', expected one of wait, abort"),
        ("+data.counts.tset=3", "data.counts: found 'tset', expected one of cold_start, rl"),
        (
            "judge.minimum_label_mass=low",
            "judge.minimum_label_mass: found 'low', expected a number",
        ),
    ],
)
def test_a_wrong_value_names_the_key_and_what_was_expected(override: str, message: str) -> None:
    problems = Problems()
    values = {**compose_recipe("rl", [override]), "run_name": "x"}
    assert read_values(CONFIGS["rl"], values, problems) is None
    assert any(message in problem for problem in problems.found), problems.found


def test_unknown_and_wrong_trainer_keys_come_at_once_with_suggestions() -> None:
    problems = Problems()
    check_trainer(
        "rl",
        {"leraning_rate": 1.0, "epsilon": "1e-6", "seed": 3, "max_steps": 1.5, "bf16": None},
        problems,
    )
    text = "\n".join(problems.found)
    assert len(problems.found) == 4
    assert (
        "trainer.leraning_rate: trl.GRPOConfig has no such field; did you mean learning_rate"
        in text
    )
    assert "trainer.epsilon: found '1e-6', expected float (write 1.0e-6, not 1e-6)" in text
    assert "trainer.seed: the recipe sets it; set seed instead" in text
    assert "trainer.max_steps: found 1.5, expected int" in text


def test_a_field_of_the_other_trainer_is_refused() -> None:
    problems = Problems()
    check_trainer("cold_start", {"num_generations": 4}, problems)
    assert "trl.SFTConfig has no such field" in problems.found[0]


def test_the_fields_read_from_source_are_those_of_the_classes() -> None:
    import trl

    for name in ("GRPOConfig", "SFTConfig"):
        fields = {field.name for field in dataclasses.fields(getattr(trl, name)) if field.init}
        assert set(trainer_fields(name)) == fields


def test_flatten_gives_dotted_keys_and_keeps_lists() -> None:
    assert dict(flatten({"a": {"b": 1, "c": []}, "d": {}})) == {"a.b": 1, "a.c": [], "d": {}}


def test_directories_stand_in_paths_alone() -> None:
    for file in CONF.glob("**/*.yaml"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        if file.parent.name != "paths":
            assert not [line for line in lines if ": outputs" in line or ": assets" in line], file

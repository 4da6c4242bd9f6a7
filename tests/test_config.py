"""conf/: every choice composes, is checked and binds; the experiment's own rules."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from alignxplore_trl.config import CONF, checked, compose, plain
from alignxplore_trl.preflight import check_targets
from alignxplore_trl.run.errors import UserError

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
GROUPS = ("setting", "data", "prompts", "judge", "generator", "reward", "teacher", "peft", "writer",
          "vpl", "study")  # fmt: skip
CHOICES = {group: [p.stem for p in FILES if p.parent.name == group] for group in GROUPS}


def values(*overrides: str) -> dict[str, Any]:
    return plain(compose(overrides))


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)


@pytest.mark.parametrize("scale", [path.stem for path in FILES if path.parent.name == "scale"])
def test_every_scale_composes_and_binds(scale: str) -> None:
    found = values(f"scale={scale}", *(["data.path=x"] if scale.startswith("paper") else []))
    experiment = checked(found)
    check_targets(found)
    assert experiment.run.startswith(f"{scale}-streaming4-")
    assert experiment.scale == scale


@pytest.mark.parametrize("number", range(max(map(len, CHOICES.values()))))
def test_every_choice_composes_and_binds(number: int) -> None:
    """The first of each group together, then the second of each, and so on."""
    chosen = {group: names[number % len(names)] for group, names in CHOICES.items()}
    words = [f"{group}={name}" for group, name in chosen.items()]
    found = values(*words, *([] if chosen["data"] == "world" else ["data.path=x"]))
    checked(found)
    check_targets(found)


def test_every_method_binds() -> None:
    names = ",".join(f'"{path.stem}"' for path in FILES if path.parent.name == "method")
    found = values(f"method=[{names}]")
    assert len(found["evaluation"]["methods"]) == names.count(",") + 1
    check_targets(found)


def test_the_default_name_is_readable() -> None:
    assert values()["run"] == "tiny-streaming4-world-judged-seed0"
    named = values("setting=base", "setting.signals=8", "reward=generated", "seed=3")["run"]
    assert named == "tiny-base8-world-generated-seed3"


def test_the_scales_carry_the_published_values() -> None:
    found = values("scale=paper_7b", "data.path=x")
    rl, cold_start = found["rl"], found["cold_start"]
    completions = rl["per_device_train_batch_size"] * rl["steps_per_generation"] * 8
    assert completions == 128 * rl["num_generations"] == 512
    assert (rl["learning_rate"], rl["warmup_steps"], rl["num_train_epochs"]) == (1e-6, 50, 4)
    assert (rl["loss_type"], rl["beta"], rl["temperature"], rl["top_p"]) == ("grpo", 0.0, 1.0, 1.0)
    assert rl["max_completion_length"] == 2048
    assert found["prompts"]["max_tokens"] == 8192
    examples = cold_start["per_device_train_batch_size"] * 8
    assert examples * cold_start["gradient_accumulation_steps"] == 128
    assert (cold_start["learning_rate"], cold_start["num_train_epochs"]) == (2e-5, 2)
    split = values("scale=paper_7b_split", "data.path=x")
    for section in ("rl", "cold_start"):
        keys = "per_device_train_batch_size", "gradient_accumulation_steps"
        four, eight = ([of[section][key] for key in keys] for of in (split, found))
        assert prod(four) * 4 == prod(eight) * 8
    for key, published in {"temperature": 0.9, "top_p": 0.95, "top_k": 10}.items():
        assert found["evaluation"]["writer"][key] == published
        assert found["teacher"][key] == published


def test_all_problems_are_said_at_once() -> None:
    found = values()
    found["seed"], found["model"]["dtype"], found["win_rate"] = "x", "int8", "y" * 9
    found["tracking"]["mode"], found["evaluation"]["case"] = "y" * 999, 3
    with pytest.raises(UserError) as error:
        checked(found)
    assert error.value.problems == [
        "seed: 'x' found: Input should be a valid integer, unable to parse string as an integer",
        "model.dtype: 'int8' found: Input should be 'float32', 'bfloat16' or 'float16'",
        "evaluation.case: no such key",
        f"tracking.mode: '{'y' * 119} found: Input should be 'offline', 'online' or 'none'",
        "win_rate: no such key",
    ]


def test_verification_is_never_the_reward() -> None:
    found = values("reward=generated")
    assert found["synthesis"]["verification"]["_target_"].endswith("JudgedReward")


def test_every_file_says_what_it_is() -> None:
    for path in [*FILES, CONF / "config.yaml"]:
        lines = path.read_text("utf-8").splitlines()
        assert any(line.startswith("# ") for line in lines[:2]), path

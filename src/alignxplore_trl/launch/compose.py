"""Composes a recipe's configuration with Hydra, and words Hydra's complaints for people."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignxplore_trl.run.errors import UserError

CONF = Path(__file__).resolve().parents[3] / "conf"


def _register() -> None:
    """Make the `trainer` node open, so that any TRL field is set without `+`; add our resolver."""
    ConfigStore.instance().store(
        name="open", group="trainer", node=OmegaConf.create({}, flags={"struct": False})
    )
    OmegaConf.register_new_resolver("at_least", _at_least, replace=True)


def _at_least(minimum: int, rounds: Any, signals: Any) -> int:
    """Signals enough for the rounds; what isn't a number is reported where the types are read."""
    if isinstance(rounds, int) and isinstance(signals, int):
        return max(minimum, rounds * signals)
    return minimum


_register()


def override_key(override: str) -> str:
    """The key an override sets: `trainer.seed` of `++trainer.seed=1`, `model` of `~model`."""
    return override.split("=", 1)[0].lstrip("+~").split("@", 1)[0]


def compose_recipe(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a recipe with every interpolation resolved, as plain values.

    A value that the user must give and didn't is the string `???`: see `missing_values`.

    Raises:
        UserError: an override can't be read, or names a key or a group's choice that isn't there.
    """
    return copy.deepcopy(_compose(recipe, tuple(overrides)))


@cache
def _compose(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"{override!r}: found no '=', expected <key>=<value>")
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            config = compose(recipe, overrides=list(overrides))
            values = OmegaConf.to_container(config, resolve=True)
            problems = _without_effect(overrides, config)
    except yaml.YAMLError as error:
        raise UserError(f"{CONF}: not YAML: {' '.join(str(error).split())}") from error
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not a Hydra override: {error.message}") from error
    except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
        refused = list(_refused(recipe, overrides).values())
        raise UserError(refused or _in_hydras_words(recipe, overrides, error)) from error
    if problems:
        raise UserError(problems)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def refused_overrides(recipe: str, overrides: Sequence[str]) -> dict[str, str]:
    """The overrides that name a key or a choice which isn't there, each with its problem.

    Raises:
        UserError: one that can't be read at all.
    """
    try:
        compose_recipe(recipe, overrides)
    except UserError as error:
        refused = _refused(recipe, tuple(overrides))
        if not refused:
            raise error
        return refused
    return {}


def _refused(recipe: str, overrides: tuple[str, ...]) -> dict[str, str]:
    groups = set(group_names())
    chosen = _chosen_groups(recipe, overrides, groups)
    known = compose_recipe(recipe, chosen)
    refused = {}
    for override in overrides:
        key = override_key(override)
        choice = override.split("=", 1)[-1]
        problem = None
        if key in groups:
            problem = _check_choice(recipe, key, choice, known)
        elif not override.startswith("+") and not _is_known(key, known):
            near = did_you_mean(key, _all_keys(known))
            problem = f"{key}: the {recipe} recipe has no such key{near}"
        elif _adds_keys(recipe, override, chosen):
            problem = (
                f"{override}: there are no such keys yet, expected a plus to add them: "
                f"+{key}.<name>=<value>"
            )
        if problem is not None:
            refused[override] = problem
    return refused


def _chosen_groups(recipe: str, overrides: tuple[str, ...], groups: set[str]) -> tuple[str, ...]:
    """The overrides that choose something which is there; none where these can't go together."""
    plain = compose_recipe(recipe, ()) if overrides else {}
    chosen = tuple(
        each
        for each in overrides
        if (key := override_key(each)) in groups
        and _check_choice(recipe, key, each.split("=", 1)[-1], plain) is None
    )
    # Where nothing else was given, these are what can't be composed.
    return () if chosen == overrides else chosen


def _adds_keys(recipe: str, override: str, chosen: tuple[str, ...]) -> bool:
    """Whether it gives a mapping keys that it doesn't have, which Hydra refuses without a plus."""
    if override.startswith(("+", "~")) or "={" not in override:
        return False
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            compose(recipe, overrides=[*chosen, override])
    except (HydraException, OmegaConfBaseException):
        return True
    return False


def _without_effect(overrides: tuple[str, ...], config: DictConfig) -> list[str]:
    """Problems with `<key>={}`: Hydra merges mappings, and so leaves the old keys there."""
    return [
        f"{override}: changes nothing, because mappings are merged; take keys out, one by one, "
        f"with ~{override_key(override)}.<name>"
        for override in overrides
        if override.replace(" ", "").endswith("={}")
        and OmegaConf.select(config, override_key(override))
    ]


def _in_hydras_words(recipe: str, overrides: tuple[str, ...], error: Exception) -> str:
    message = " ".join(str(error).split("Config search path")[0].split())
    return f"conf/{recipe}.yaml with {' '.join(overrides)}: {message}"


def _check_choice(recipe: str, group: str, choice: str, known: Mapping[str, Any]) -> str | None:
    choices = group_choices(group)
    if group.split("/")[0] not in known:
        return f"{group}={choice}: the {recipe} recipe has no {group}"
    if choice not in choices:
        return (
            f"{group}={choice}: no such choice{did_you_mean(choice, choices)}; "
            f"conf/{group}/ has: {', '.join(choices)}"
        )
    return None


def _is_known(key: str, known: Mapping[str, Any]) -> bool:
    return (key.startswith("trainer.") and "trainer" in known) or key in _all_keys(known)


def _all_keys(values: Mapping[str, Any]) -> list[str]:
    """Dotted keys of values and of the mappings they stand in."""
    parts = [key.split(".") for key, _ in flatten(values)]
    return list(
        dict.fromkeys(".".join(key[:end]) for key in parts for end in range(1, len(key) + 1))
    )


def group_names() -> list[str]:
    """The config groups: folders of conf/ that hold YAML choices."""
    folders = {file.parent for file in CONF.glob("**/*.yaml") if file.parent != CONF}
    names = sorted(str(folder.relative_to(CONF)) for folder in folders)
    return [name for name in names if not name.startswith("launch/")]


def group_choices(group: str) -> list[str]:
    """The names that can stand right of `<group>=`."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """`; did you mean a or b?` with the nearest names, or nothing."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists and empty mappings are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def missing_values(values: Mapping[str, Any]) -> list[str]:
    """A problem for each value that the user must give."""
    return [
        f"{key}: found nothing, this one must be given: {key}=<value>"
        for key, value in flatten(values)
        if value == "???"
    ]

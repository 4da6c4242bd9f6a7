"""Names of runs, and which run of an earlier stage a recipe takes up.

A name is a function of the overrides alone. A later stage composes the earlier stage's
configuration from those of its own overrides that concern it, and so arrives at its name.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore_trl.launch.compose import compose_recipe, flatten, override_key
from alignxplore_trl.run.folder import is_finished, is_free

# Keys that belong to one stage: the same override means something else, or nothing, to another.
OWN_KEYS = (
    "trainer",
    "peft",
    "reward",
    "completions_every",
    "output",
    "throughput",
    "start",
    "round_credit",
    "teacher",
    "verification",
    "synthesis",
    "examples",
    "vpl",
    "evaluation",
    "report",
    "page",
    "inspection",
    "run_name",
    "upstream",
)
# Recipes that do with those earlier runs that are finished.
TAKE_WHAT_IS_THERE = ("evaluate", "inspect_data")
# Recipes whose runs are named by the runs they read, too: the same overrides may find others later.
NAMED_BY_UPSTREAM = (*TAKE_WHAT_IS_THERE, "report")
# Keys that a name spells out, and groups that say where a run is kept and shown, and what it costs.
_SPELLED = (
    "scale",
    "setting",
    "setting.signals",
    "data",
    "reward",
    "study",
    "sweep.recipe",
    "seed",
)
_NEUTRAL = ("tracking", "paths", "throughput", "preflight", "run_name")
# What a policy is called before its setting (rl_only_base4): the stage that makes it, and its own
# values of that stage's keys. The first that fits a run names it.
_POLICIES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "cold_start_unverified": ("cold_start", {"examples": "unverified"}),
    "cold_start": ("cold_start", {}),
    "rl_only": ("rl", {"start": "backbone"}),
    "rl": ("rl", {}),
}
_MAKE_VARIABLES = {
    "scale": "SCALE",
    "setting": "SETTING",
    "setting.signals": "SIGNALS",
    "data": "DATA",
    "data.path": "DATA_PATH",
    "reward": "REWARD",
    "judge": "JUDGE",
    "launch": "LAUNCH",
    "seed": "SEED",
    "run_name": "RUN",
}


def overrides_for(stage: str, recipe: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """Those of a recipe's overrides that concern another stage: shared keys which it has too."""
    if stage == recipe:
        return tuple(overrides)
    known = compose_recipe(stage, ())
    return tuple(
        override
        for override in overrides
        if (top := _top_key(override)) not in OWN_KEYS and top in known
    )


def name_of_run(recipe: str, overrides: Sequence[str], policies: Sequence[str] = ()) -> str:
    """The name of a run: `run_name` if given, else made from the configuration.

    It spells out scale, setting, signals, data, reward, study, swept recipe and seed, and ends in a
    hash of every other difference from what these choices alone give, if there is one.

    Args:
        recipe: the recipe.
        overrides: its overrides.
        policies: names of the runs it scores, which are part of what it computes.
    """
    values = compose_recipe(recipe, overrides)
    if values["run_name"] is not None:
        return str(values["run_name"])
    plain = [
        override
        for override in overrides
        if override_key(override) in _SPELLED or _top_key(override) in _NEUTRAL
    ]
    differences = _differences(values, compose_recipe(recipe, plain))
    parts = [values["scale"]["name"]]
    if "setting" in values:
        parts += [values["setting"]["name"], f"signals{values['setting']['signals']}"]
    parts += [values[group]["name"] for group in ("data", "reward", "study") if group in values]
    parts += [values["sweep"]["recipe"]] if "sweep" in values else []
    parts.append(f"seed{values['seed']}")
    if differences or policies:
        text = json.dumps([differences, list(policies)], sort_keys=True)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
    return "-".join(parts)


def upstream_names(
    recipe: str, command: str, overrides: Sequence[str]
) -> dict[str, str | list[str] | None]:
    """The runs a recipe starts from: given ones, else the ones the same overrides make.

    What the evaluation and the inspection can do without, and weren't told to take, is `None` where
    it hasn't finished. So are policies that aren't among the methods of an evaluation.

    Args:
        recipe: the recipe that runs.
        command: the recipe the overrides were written for (`rl` for a stage of its chain).
        overrides: the overrides, as written.
    """
    values = compose_recipe(recipe, overrides_for(recipe, command, overrides))
    given = values.get("upstream", {})
    if command != recipe:
        told = compose_recipe(command, overrides).get("upstream", {})
        given = {key: told.get(key) or name for key, name in given.items()}
    asked = values.get("evaluation", {}).get("methods") or ()
    unused = _unused(values)
    names = dict(given)
    for key in names:
        if names[key] is None and key not in unused:
            stage, stage_overrides = _upstream_stage(key, recipe, command, overrides)
            name = _name_of_stage(stage, stage_overrides)
            folder = Path(values["paths"]["outputs"]) / stage / name
            can_do_without = recipe in TAKE_WHAT_IS_THERE and key not in ("prepare", *asked)
            if not can_do_without or is_finished(folder):
                names[key] = name
    return names


def policies_of(recipe: str, upstream: Mapping[str, str | list[str] | None]) -> list[str]:
    """The runs that a run of the recipe is named by, beside its configuration."""
    if recipe not in NAMED_BY_UPSTREAM:
        return []
    return [f"{key}={name}" for key, name in upstream.items() if name]


def make_command(key: str, recipe: str, command: str, overrides: Sequence[str]) -> str:
    """The make command that makes the run a recipe takes up under `upstream.<key>`, or its own.

    Args:
        key: a key of `upstream`, or the recipe itself.
        recipe: the recipe.
        command: the recipe that the overrides were written for.
        overrides: the overrides, as written.
    """
    stage, stage_overrides = _upstream_stage(key, recipe, command, overrides)
    telling = [
        each
        for each in stage_overrides
        if _top_key(each) not in _NEUTRAL or override_key(each) in _MAKE_VARIABLES
    ]
    words = [
        f'ARGS="{word.removeprefix("ARGS=")}"' if word.startswith("ARGS=") else word
        for word in make_arguments(stage, telling)
    ]
    return " ".join(["make", *words])


def make_arguments(stage: str, overrides: Sequence[str]) -> list[str]:
    """Target and variables of the make command that runs a stage with its overrides."""
    variables, rest = [], []
    for override in overrides:
        name, value = override_key(override), override.partition("=")[2]
        if name in _MAKE_VARIABLES:
            variables.append(f"{_MAKE_VARIABLES[name]}={value}")
        else:
            rest.append(override)
    target = {"prepare": "data", "inspect_data": "inspect"}.get(stage, stage.replace("_", "-"))
    return [target, *variables, *([f"ARGS={shlex.join(rest)}"] if rest else [])]


def stage_of(key: str) -> str:
    """The recipe that makes what `upstream.<key>` names: `rl` for `rl_streaming`."""
    policy, _, _ = key.rpartition("_")
    return _POLICIES[policy][0] if policy in _POLICIES else key


def needed_stages(chain: Sequence[str], then: Sequence[str], overrides: Sequence[str]) -> set[str]:
    """The stages of a command that have to run.

    A stage isn't needed where its run is given by `upstream.<stage>`, or where nothing starts from
    it.

    Args:
        chain: the command's stages, itself the last.
        then: recipes that the same command runs at its end.
        overrides: of the command.
    """
    values = compose_recipe(chain[-1], overrides)
    given, skipped = values.get("upstream", {}), _unused(values)
    needed = {chain[-1], *then}
    for stage in (*then, *reversed(chain)):
        if stage in needed:
            keys = compose_recipe(stage, ()).get("upstream", {})
            needed |= {
                key for key in keys if key in chain and key not in skipped and not given.get(key)
            }
    return needed


def policy_name(stage: str, values: Mapping[str, Any]) -> str:
    """What the policy of a stage's configuration is called: cold_start_base4, rl_only_streaming."""
    policy = next(
        name
        for name, (maker, chosen) in _POLICIES.items()
        if maker == stage and all(values[key] == value for key, value in chosen.items())
    )
    setting = values["setting"]
    if setting["name"] == "streaming":
        return f"{policy}_streaming"
    return f"{policy}_base{setting['signals']}"


def _unused(values: Mapping[str, Any]) -> set[str]:
    """What a configuration could start from, and doesn't."""
    methods = values.get("evaluation", {}).get("methods")
    unused = set() if methods is None else set(values["upstream"]) - {"prepare", *methods}
    return unused | ({"cold_start"} if values.get("start") == "backbone" else set())


def _name_of_stage(stage: str, overrides: Sequence[str]) -> str:
    if stage not in NAMED_BY_UPSTREAM:
        return name_of_run(stage, overrides)
    upstream = upstream_names(stage, stage, overrides)
    return name_of_run(stage, overrides, policies_of(stage, upstream))


def _upstream_stage(
    key: str, recipe: str, command: str, overrides: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    stage = stage_of(key)
    chosen = overrides_for(stage, command, overrides)
    if stage == "vpl":  # It reads pairs in whatever rounds they came.
        return stage, tuple(each for each in chosen if override_key(each) != "setting")
    if key == stage or key == policy_name(stage, compose_recipe(stage, chosen)):
        return stage, chosen
    # Another policy than the command's own: its setting, and nothing that was tuned for this one.
    shared = [override for override in chosen if _top_key(override) not in (*OWN_KEYS, "setting")]
    policy, _, trained_in = key.rpartition("_")
    name, signals = (
        ("streaming", 4) if trained_in == "streaming" else ("base", int(trained_in[len("base") :]))
    )
    return stage, (
        *shared,
        f"setting={name}",
        *([f"setting.signals={signals}"] if signals != 4 else []),
        *(f"{key}={value}" for key, value in _POLICIES[policy][1].items()),
    )


def _top_key(override: str) -> str:
    return override_key(override).replace("/", ".").split(".", 1)[0]


def _differences(values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened keys whose values differ, with the first one's value; free keys are left out."""
    ours, others = dict(flatten(values)), dict(flatten(plain))
    return {
        key: ours.get(key, "<none>")
        for key in sorted(ours.keys() | others.keys())
        if key != "run_name" and not is_free(key)
        if key not in ours or key not in others or ours[key] != others[key]
    }

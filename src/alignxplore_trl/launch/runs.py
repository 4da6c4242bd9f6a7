"""Names of runs, and which run of an earlier stage a recipe takes up.

A name is a function of the overrides alone. A later stage composes the earlier stage's
configuration from those of its own overrides that concern it, and so arrives at its name.
"""

from __future__ import annotations

import hashlib
import json
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
    "teacher",
    "verification",
    "synthesis",
    "examples",
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
# Keys that a name spells out, and groups that say where a run is kept and shown.
_SPELLED = ("scale", "setting", "setting.signals", "data", "reward", "seed")
_NEUTRAL = ("tracking", "paths", "run_name")
# Of policies whose cold start was on unverified examples: cold_start_unverified_base4.
_UNVERIFIED = "unverified_"
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

    It spells out scale, setting, signals, data, reward and seed, and ends in a hash of every other
    difference from what these choices alone give, if there is one.

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
    parts += [values[group]["name"] for group in ("data", "reward") if group in values]
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
    it hasn't finished.

    Args:
        recipe: the recipe that runs.
        command: the recipe the overrides were written for (`rl` for a stage of its chain).
        overrides: the overrides, as written.
    """
    values = compose_recipe(recipe, overrides_for(recipe, command, overrides))
    given = values.get("upstream", {})
    if command != recipe:
        asked = compose_recipe(command, overrides).get("upstream", {})
        given = {key: asked.get(key) or name for key, name in given.items()}
    names = dict(given)
    for key in names:
        if names[key] is None:
            stage, stage_overrides = _upstream_stage(key, recipe, command, overrides)
            name = _name_of_stage(stage, stage_overrides)
            folder = Path(values["paths"]["outputs"]) / stage / name
            if recipe not in TAKE_WHAT_IS_THERE or stage == "prepare" or is_finished(folder):
                names[key] = name
    return names


def policies_of(recipe: str, upstream: Mapping[str, str | list[str] | None]) -> list[str]:
    """The runs that a run of the recipe is named by, beside its configuration."""
    if recipe not in NAMED_BY_UPSTREAM:
        return []
    return [f"{key}={name}" for key, name in upstream.items() if name]


def make_command(key: str, recipe: str, command: str, overrides: Sequence[str]) -> str:
    """The make command that makes the run a recipe takes up under `upstream.<key>`."""
    stage, stage_overrides = _upstream_stage(key, recipe, command, overrides)
    variables, rest = [], []
    for override in stage_overrides:
        name, value = override_key(override), override.partition("=")[2]
        if name in _MAKE_VARIABLES:
            variables.append(f"{_MAKE_VARIABLES[name]}={value}")
        elif _top_key(override) not in _NEUTRAL:
            rest.append(override)
    target = {"prepare": "data", "cold_start": "cold-start"}.get(stage, stage)
    arguments = [f'ARGS="{" ".join(rest)}"'] if rest else []
    return " ".join(["make", target, *variables, *arguments])


def stage_of(key: str) -> str:
    """The recipe that makes what `upstream.<key>` names: `rl` for `rl_streaming`."""
    return next((stage for stage in ("rl", "cold_start") if key.startswith(f"{stage}_")), key)


def needed_stages(chain: Sequence[str], then: Sequence[str], overrides: Sequence[str]) -> set[str]:
    """The stages of a command that have to run: those whose run isn't given by `upstream.<stage>`.

    Args:
        chain: the command's stages, itself the last.
        then: recipes that the same command runs at its end.
        overrides: of the command.
    """
    given = compose_recipe(chain[-1], overrides).get("upstream", {})
    needed = {chain[-1], *then}
    for stage in (*then, *reversed(chain)):
        if stage in needed:
            keys = compose_recipe(stage, ()).get("upstream", {})
            needed |= {key for key in keys if key in chain and not given.get(key)}
    return needed


def policy_name(stage: str, setting: Mapping[str, Any]) -> str:
    """What a policy is called by its stage and setting: cold_start_base4, rl_streaming."""
    if setting["name"] == "streaming":
        return f"{stage}_streaming"
    return f"{stage}_base{setting['signals']}"


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
    setting = compose_recipe(recipe, overrides_for(recipe, command, overrides))["setting"]
    if key in (stage, policy_name(stage, setting)):
        return stage, chosen
    # Another policy than the command's own: its setting, and nothing that was tuned for this one.
    shared = [override for override in chosen if _top_key(override) not in (*OWN_KEYS, "setting")]
    trained_in = key.removeprefix(f"{stage}_").removeprefix(_UNVERIFIED)
    name, signals = (
        ("streaming", 4) if trained_in == "streaming" else ("base", int(trained_in[len("base") :]))
    )
    return stage, (
        *shared,
        f"setting={name}",
        *([f"setting.signals={signals}"] if signals != 4 else []),
        *(["examples=unverified"] if _UNVERIFIED in key else []),
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

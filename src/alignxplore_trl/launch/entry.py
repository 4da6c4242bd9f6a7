"""The way into a recipe: read the command line, check everything, take up the run folder."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from alignxplore_trl.launch.checks import check_config
from alignxplore_trl.launch.compose import (
    compose_recipe,
    group_choices,
    group_names,
    missing_values,
    refused_overrides,
)
from alignxplore_trl.launch.config import (
    CONFIGS,
    RecipeConfig,
    StudyConfig,
    SweepConfig,
    read_values,
)
from alignxplore_trl.launch.preflight.check import CheckedConfig, TrainingConfig
from alignxplore_trl.launch.runs import (
    make_command,
    name_of_run,
    needed_stages,
    overrides_for,
    policies_of,
    stage_of,
    upstream_names,
)
from alignxplore_trl.launch.studies import StageCommand, commands_of
from alignxplore_trl.launch.sweeps import Point, commands_of_point, points_of
from alignxplore_trl.launch.trainer_fields import check_trainer
from alignxplore_trl.run.errors import (
    Problems,
    StoppedBySignalError,
    UserError,
    user_errors_exit,
)
from alignxplore_trl.run.folder import (
    RunFolder,
    facts_of_source,
    is_finished,
    is_main_process,
    read_config,
    read_summary,
)
from alignxplore_trl.run.progress import say, shows_bars
from alignxplore_trl.run.signals import end_with_launcher

Config = TypeVar("Config", bound=RecipeConfig)

# The exit status of a shell's command that a signal ended is this and its number; Ctrl-C sends 2.
_SIGNALLED = 128
_INTERRUPTED = 130
# A name of one folder.
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")

# What a make target runs up to the recipe that it is about. Each stage checks those after it, so
# that a mistake is not found after hours of the stages before.
CHAINS = {
    "synthesize": ("prepare", "synthesize"),
    "cold_start": ("prepare", "synthesize", "cold_start"),
    "rl": ("prepare", "synthesize", "cold_start", "rl"),
    "vpl": ("prepare", "vpl"),
    "evaluate": ("prepare", "evaluate"),
    "judge_report": ("prepare", "judge_report"),
    "inspect_data": ("prepare", "inspect_data"),
}
# Recipes that a make command runs with any overrides.
_STAGES = {stage for chain in CHAINS.values() for stage in chain}


def run_recipe(
    kind: type[Config], main: Callable[[Config, RunFolder], None], arguments: Sequence[str]
) -> None:
    """Run a recipe's `main` with its configuration, unless this very run is finished already.

    Nothing here imports torch: a mistake in the command line is answered at once, with status 2.

    Args:
        kind: the dataclass of the recipe's configuration.
        main: takes the configuration and the run folder.
        arguments: the command line without the program's name.
    """
    recipe = next(name for name, known in CONFIGS.items() if known is kind)
    parsed = _parser(recipe, main.__module__).parse_intermixed_args(arguments)
    with user_errors_exit():
        command = parsed.command or recipe
        refused = refused_overrides(command, parsed.overrides)
        overrides = [each for each in parsed.overrides if each not in refused]
        values = resolve(recipe, command, overrides)
        chain = CHAINS.get(command, ())
        if recipe in chain and recipe not in needed_stages(chain, parsed.then, overrides):
            say(f"{recipe}: not needed for what the command starts from")
            return
        folder = _folder_of(values)
        problems = Problems(list(refused.values()))
        if parsed.print_run_name or parsed.print_config:
            problems.raise_if_any()
        if parsed.print_run_name:
            print(values["run_name"])
            return
        if parsed.print_config:
            print(f"# {folder}\n{yaml.safe_dump(values, sort_keys=False)}", end="")
            return
        if not shows_bars():
            # Read by tqdm when it is imported; libraries draw bars of their own.
            os.environ["TQDM_DISABLE"] = "1"
        if parsed.preflight:
            _print_preflight(values, overrides, problems, parsed.then)
            return
        config = checked(kind, values, command, overrides, problems, parsed.then)
        if isinstance(config, TrainingConfig):
            # From now on: while models are loaded there is nothing to save, and it just ends.
            end_with_launcher()
        if isinstance(config, TrainingConfig) and is_main_process() and not is_finished(folder):
            # Imported here: it takes seconds that a mistake in the command line needn't wait for.
            from alignxplore_trl.launch.preflight.run import refuse_or_say

            refuse_or_say(config, folder)
        told = make_command(recipe, recipe, command, overrides) if recipe in _STAGES else None
        run = RunFolder.open(folder, values, told)
        if run.finished:
            say(f"{recipe}: {folder} is finished; nothing to do")
            if run.table.is_file() and is_main_process():
                print(run.table.read_text())
            return
        say(f"{recipe}: {'resuming' if run.resumed else 'starting'} {folder}")
        try:
            with run.held():
                main(config, run)
        except KeyboardInterrupt:
            say(f"{recipe}: interrupted; the same command goes on in {folder}")
            raise SystemExit(_INTERRUPTED) from None
        except StoppedBySignalError as stopped:
            say(f"{recipe}: {stopped}; the same command goes on in {folder}")
            raise SystemExit(_SIGNALLED + stopped.number) from None
        say(f"{recipe}: finished {folder}")


def resolve(recipe: str, command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of a recipe, its run's name and the runs it starts from included.

    Args:
        recipe: the recipe that runs.
        command: the recipe that the overrides were written for.
        overrides: Hydra overrides.

    Raises:
        UserError: overrides that can't be, of either recipe.
    """
    compose_recipe(command, overrides)  # All of them, also what doesn't concern this recipe.
    own = overrides_for(recipe, command, overrides)
    values = compose_recipe(recipe, own)
    policies: list[str] = []
    if "upstream" in values:
        values["upstream"] = upstream_names(recipe, command, overrides)
        policies = policies_of(recipe, values["upstream"])
    values["run_name"] = name_of_run(recipe, own, policies)
    return values


def checked(
    kind: type[Config],
    values: dict[str, Any],
    command: str,
    overrides: Sequence[str],
    problems: Problems,
    then: Sequence[str] = (),
) -> Config:
    """The configuration as a dataclass.

    Raises:
        UserError: everything that is wrong with it, at once, with the problems found before, those
            of the command's later stages, earlier stages that aren't finished, and a launch
            with another number of processes than it says.
    """
    config = _read_and_check(kind, values, problems)
    for stage in (*_later_stages(values["recipe"], command), *then):
        others = Problems()
        _read_and_check(CONFIGS[stage], resolve(stage, command, overrides), others)
        problems.found += [each for each in others.found if each not in problems.found]
    if isinstance(config, StudyConfig) and not problems.found:
        _check_commands(config, problems)
    if isinstance(config, SweepConfig) and not problems.found:
        _check_points(config, problems)
    _check_run_name(values["run_name"], problems)
    _check_upstream(values, command, overrides, problems)
    _check_file(values, problems)
    _check_processes(values, problems)
    problems.raise_if_any()
    assert config is not None
    return config


def _print_preflight(
    values: dict[str, Any], overrides: Sequence[str], problems: Problems, then: Sequence[str]
) -> None:
    """Print a line for each check of a command's stages that aren't finished.

    Raises:
        SystemExit: with status 2, because one failed.
    """
    stages = _stages_ahead(values, overrides, then)
    read = [(own, _read_and_check(CONFIGS[own["recipe"]], own, problems)) for own in stages]
    _check_run_name(values["run_name"], problems)
    _check_file(values, problems)
    from alignxplore_trl.launch.preflight.run import run_checks

    told = list(dict.fromkeys(problems.found))
    keys = {problem.partition(": ")[0] for problem in told}
    numbers = not any(key.startswith("trainer.") for key in keys)
    lines = [f"FAIL  configuration  {problem}" for problem in told]
    for own, config in read:
        lines += [f"{own['recipe']}: {_folder_of(own)}"]
        if not isinstance(config, CheckedConfig):
            lines += ["SKIP  all others     the configuration can't be read: see above"]
            continue
        for check in run_checks(config, _folder_of(own), numbers=numbers):
            # What stages have in common is said once, as is what the configuration was refused for.
            known = check.state == "FAIL" and check.line.partition(": ")[0] in keys
            if not known and str(check) not in lines:
                lines += [str(check)]
    print("\n".join(lines))
    if any(line.startswith("FAIL") for line in lines):
        raise SystemExit(2)


def _stages_ahead(
    values: dict[str, Any], overrides: Sequence[str], then: Sequence[str]
) -> list[dict[str, Any]]:
    """The values of a command's stages that have checks and aren't finished, its own in any case.

    Raises:
        UserError: its recipe has no checks.
    """
    recipe = values["recipe"]
    with_checks = [name for name, kind in CONFIGS.items() if issubclass(kind, CheckedConfig)]
    if recipe not in with_checks:
        raise UserError(
            f"--preflight: {recipe} found, expected one of {', '.join(with_checks)} (RECIPE of "
            "make preflight)"
        )
    chain = (*CHAINS[recipe], *then)
    needed = needed_stages(CHAINS[recipe], then, overrides)
    ahead = [resolve(stage, recipe, overrides) for stage in chain if stage in with_checks]
    return [
        own
        for own in ahead
        if own["recipe"] in needed
        if own["recipe"] == recipe or not is_finished(_folder_of(own))
    ]


def _folder_of(values: dict[str, Any]) -> Path:
    return Path(values["paths"]["outputs"], values["recipe"], values["run_name"])


def _later_stages(recipe: str, command: str) -> tuple[str, ...]:
    chain = CHAINS.get(command, ())
    return chain[chain.index(recipe) + 1 :] if recipe in chain else ()


def _read_and_check(
    kind: type[Config], values: dict[str, Any], problems: Problems
) -> Config | None:
    missing = missing_values(values)
    problems.found += missing
    if missing:
        return None
    config = read_values(kind, values, problems)
    if "trainer" in values:
        check_trainer(values["recipe"], values["trainer"], problems)
    if config is not None:
        check_config(config, problems)
    return config


def _check_commands(config: StudyConfig, problems: Problems) -> None:
    """All trainings and evaluations of a study, before the first of them takes its hours."""
    for key, command in commands_of(config, config.seeds[0]):
        problems.found += [f"{key}: {each}" for each in command_problems(command)]


def _check_points(config: SweepConfig, problems: Problems) -> None:
    """A sweep none of whose points can run; one that can't is left to the table of the others."""
    found = [problems_of_point(config, point) for point in points_of(config)]
    if all(found):
        problems.found += dict.fromkeys(problem for each in found for problem in each)


def problems_of_point(config: SweepConfig, point: Point) -> list[str]:
    """What the recipes of a sweep's point would refuse, before any of them has run."""
    try:
        commands = commands_of_point(config, point)
    except UserError as error:
        return error.problems
    problems = [problem for command in commands for problem in command_problems(command)]
    return list(dict.fromkeys(problems))


def command_problems(command: StageCommand) -> list[str]:
    """What the recipe of a command would refuse, before any of its stages has run."""
    problems = Problems()
    try:
        values = resolve(command.recipe, command.recipe, command.overrides)
        _read_and_check(CONFIGS[command.recipe], values, problems)
        _check_run_name(values["run_name"], problems)
    except UserError as error:
        problems.found += error.problems
    return problems.found


def upstream_folder(config: RecipeConfig, key: str) -> Path:
    """The folder of the run that the configuration takes up under `upstream.<key>`."""
    (folder,) = upstream_folders(config, key)
    return folder


def upstream_folders(config: RecipeConfig, key: str) -> list[Path]:
    """The same where the configuration may take up several runs."""
    names: dict[str, str | list[str] | None] = config.upstream  # type: ignore[attr-defined]
    runs = names[key]
    assert runs is not None
    return [
        Path(config.paths.outputs) / stage_of(key) / name
        for name in (runs if isinstance(runs, list) else [runs])
    ]


def _check_run_name(name: str, problems: Problems) -> None:
    if name == "latest" or not _RUN_NAME.fullmatch(name):
        problems.add(
            f"run_name: {name!r} found, expected letters, digits, '.', '_', '+', '=' and '-', and "
            "another word than latest"
        )


def _check_upstream(
    values: dict[str, Any], command: str, overrides: Sequence[str], problems: Problems
) -> None:
    for key, runs in values.get("upstream", {}).items():
        for name in runs if isinstance(runs, list) else filter(None, [runs]):
            folder = Path(values["paths"]["outputs"]) / stage_of(key) / str(name)
            if not is_finished(folder):
                state = "isn't finished" if (folder / "config.yaml").is_file() else "isn't there"
                made_by = make_command(key, values["recipe"], command, overrides)
                if any(each.startswith(f"upstream.{key}=") for each in overrides):
                    made_by += f" RUN={name}"
                problems.add(f"upstream.{key}: the run {folder} {state}; make it with: {made_by}")


def _check_file(values: dict[str, Any], problems: Problems) -> None:
    """The rows are those that were prepared: a file may change under the same path."""
    path = values.get("data", {}).get("path")
    recipe = values["recipe"]
    name = values["run_name"] if recipe == "prepare" else values.get("upstream", {}).get("prepare")
    if path is None or name is None:
        return
    folder = Path(values["paths"]["outputs"]) / "prepare" / name
    prepared = read_summary(folder)
    read = read_config(folder).get("data", {}).get("path") if prepared else path
    if read is None or Path(str(read)).resolve() != Path(str(path)).resolve():
        if recipe != "prepare":  # There, the folder tells of all that differs.
            problems.add(
                f"data.path: {path} found, but {folder} was made of {read}; name that file, or "
                "another run"
            )
        return
    now = facts_of_source(str(path))
    if prepared and any(prepared.get(key, value) != value for key, value in now.items()):
        problems.add(
            f"data.path: {path} has changed since {folder} was made of it; delete that folder and "
            "what was made from it, or give the file another name"
        )


def _check_processes(values: dict[str, Any], problems: Problems) -> None:
    if "launch" not in values:
        return
    found, expected = int(os.environ.get("WORLD_SIZE", "1")), values["launch"]["num_processes"]
    if found != expected:
        problems.add(
            f"launch.num_processes: {found} processes were started, expected {expected}: run it as "
            f"`accelerate launch --config_file {values['launch']['accelerate_config']} …`, or "
            "choose launch= to match"
        )


def _parser(recipe: str, module: str) -> argparse.ArgumentParser:
    document = sys.modules[module].__doc__ or ""
    groups = "\n".join(f"  {group}={{{','.join(group_choices(group))}}}" for group in group_names())
    parser = argparse.ArgumentParser(
        prog=f"recipes/{recipe}.py",
        description=document,
        epilog=f"groups of conf/ that an override can choose from:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", help="Hydra overrides: <group>=<choice>, <key>=<value>"
    )
    parser.add_argument(
        "--for",
        dest="command",
        choices=sorted(CONFIGS),
        help="the overrides are that recipe's: take those that concern this one",
    )
    parser.add_argument(
        "--then",
        action="append",
        default=[],
        choices=sorted(CONFIGS),
        help="a recipe that the same command runs at its end: check it, too",
    )
    parser.add_argument("--print-config", action="store_true", help="print it, resolved, and exit")
    parser.add_argument(
        "--preflight", action="store_true", help="check all that it needs, print it, and exit"
    )
    parser.add_argument("--print-run-name", action="store_true", help="print it and exit")
    return parser

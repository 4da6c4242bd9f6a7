"""One point of a sweep: its make commands, what it is worth, and why it failed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from alignxplore_trl.launch.compose import compose_recipe, did_you_mean
from alignxplore_trl.launch.config import SweepConfig
from alignxplore_trl.launch.entry import CHAINS, problems_of_point
from alignxplore_trl.launch.make import MakeError, make
from alignxplore_trl.launch.runs import needed_stages, overrides_for
from alignxplore_trl.launch.studies import StageCommand
from alignxplore_trl.launch.sweeps import (
    Point,
    commands_of_point,
    policy_of,
    setting_of,
)
from alignxplore_trl.reporting.results import Figure, read_figures
from alignxplore_trl.reporting.sweeps import PointResult, read_result, write_result
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import is_finished, read_summary
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.run.progress import say

# Lines of a log that say why: a problem that a recipe told, or the end of a traceback.
_PROBLEM = re.compile(r"^  - (.+)", re.MULTILINE)
_EXCEPTION = re.compile(r"^(?:\[\w+\]:\s*)?((?:\w+\.)*\w*(?:Error|Exception): .+)", re.MULTILINE)
_MAKES_OWN = re.compile(r"make(\[\d+\])?: ")


def run_point(config: SweepConfig, point: Point, folder: Path) -> float:
    """Train a point, measure it, and leave its result in its folder.

    A point that is finished is left as it is; one that failed is tried again. Nothing is raised for
    a point that fails: the others go on.

    Args:
        config: of the sweep.
        point: its overrides.
        folder: its own, for `result.json` and `log.txt`.

    Returns:
        The metric; of a failed point the worst there is, from which a sweeper that searches turns
        away.
    """
    result = read_result(folder)
    if result is None or not _stands(result, point):
        problems = problems_of_point(config, point)
        if problems:
            result = PointResult(point, "failed", reason="; ".join(problems))
        else:
            say(f"sweep: starting {' '.join(point)}; its log: {folder / 'log.txt'}")
            result = _run(config, point, folder)
        write_result(folder, result)
    if result.metric is None:
        say(f"sweep: failed: {result.label}: {result.reason}")
        return -math.inf if config.sweep.direction == "maximise" else math.inf
    say(f"sweep: finished: {result.label}: {result.metric:.4g}")
    return result.metric


def _stands(result: PointResult, point: Point) -> bool:
    """Whether a result is this very point's, and its run is still there."""
    if result.state != "finished" or result.overrides != point or result.run is None:
        return False
    return is_finished(Path(result.run))


def _run(config: SweepConfig, point: Point, folder: Path) -> PointResult:
    commands = commands_of_point(config, point)
    training = commands[0]
    run = str(Path(config.paths.outputs) / training.recipe / training.run_name)
    started, log = time.monotonic(), folder / "log.txt"
    log.write_bytes(b"")
    reason, figure = None, None
    try:
        for command in earlier_commands(training):
            _make_alone(command, Path(config.paths.outputs), log)
        for command in commands:
            make(command.make_arguments, log)
        figure = metric_of(config, commands)
    except MakeError:
        reason = reason_in(log.read_text(errors="replace"))
    except UserError as error:
        reason = "; ".join(error.problems)
    return PointResult(
        point,
        "finished" if reason is None else "failed",
        figure,
        seconds=time.monotonic() - started,
        run=run,
        reason=reason,
        log=str(log),
    )


def earlier_commands(training: StageCommand) -> list[StageCommand]:
    """The stages that a training starts from, in order, each as a command of its own."""
    chain = CHAINS[training.recipe]
    needed = needed_stages(chain, (), training.overrides)
    return [
        StageCommand(stage, overrides_for(stage, training.recipe, training.overrides))
        for stage in chain[:-1]
        if stage in needed
    ]


def _make_alone(command: StageCommand, outputs: Path, log: Path) -> None:
    """Make a stage that several points start from: the first one does, and the others wait."""
    folder = outputs / command.recipe / command.run_name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not is_finished(folder):
            make(command.make_arguments, log)


def metric_of(config: SweepConfig, commands: Sequence[StageCommand]) -> Figure:
    """What a point is worth whose commands have ended well.

    Raises:
        UserError: it has no such metric.
    """
    outputs, training = Path(config.paths.outputs), commands[0]
    if config.sweep.metric != "accuracy":
        rows = read_metrics(outputs / training.recipe / training.run_name / "metrics.jsonl")
        return mean_of_last_steps(rows, config.sweep.metric, config.sweep.last_share)
    evaluation = commands[-1]
    judge = compose_recipe(evaluation.recipe, evaluation.overrides)["model"]["judge_name"]
    figures = read_figures(read_summary(outputs / "evaluate" / evaluation.run_name))
    asked = ("acc_jud", judge, policy_of(training), setting_of(training).name)
    found = [
        figure
        for key, figure in figures.items()
        if (key.metric, key.judge, key.method, key.setting) == asked
    ]
    if len(found) != 1 or found[0].value is None:
        raise UserError(
            f"sweep.metric: accuracy found, but {evaluation.run_name} has {len(found)} of "
            f"{'/'.join(asked)}, expected one"
        )
    return found[0]


def mean_of_last_steps(rows: Sequence[Mapping[str, Any]], column: str, share: float) -> Figure:
    """The mean of a column over the last part of the steps that logged it, at least one.

    Args:
        rows: of metrics.jsonl.
        column: its name.
        share: of the rows that have the column, above 0, at most 1.

    Raises:
        UserError: no row has it, or it isn't finite.
    """
    values = [float(row[column]) for row in rows if column in row]
    if not values:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        raise UserError(
            f"sweep.metric: {column} found, expected accuracy or a column of metrics.jsonl"
            f"{did_you_mean(column, columns)}; it has: {', '.join(columns)}"
        )
    mean = fmean(values[-math.ceil(len(values) * share) :])
    if not math.isfinite(mean):
        raise UserError(f"sweep.metric: {column} is {mean} at the end of the training")
    return Figure(mean)


def reason_in(log: str) -> str:
    """Why commands failed, from their log: problems told, else an exception, else the last line."""
    problems = _PROBLEM.findall(log)
    if problems:
        return "; ".join(problems)
    exceptions = _EXCEPTION.findall(log)
    if exceptions:
        return str(exceptions[-1])
    lines = [line.strip() for line in log.splitlines() if not _MAKES_OWN.match(line)]
    return next((line for line in reversed(lines) if line), "it wrote nothing")

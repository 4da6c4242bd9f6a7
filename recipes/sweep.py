"""One configuration at many points: Hydra sweeps, each point is a make command, a table compares.

    python recipes/sweep.py --multirun rl.learning_rate=1.0e-6,5.0e-7 seed=0,1

Any launcher or sweeper of Hydra's serves, such as hydra/launcher=submitit_slurm.
"""

from __future__ import annotations

import json
import math
import sys
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from alignxplore_trl.config import CONF, Experiment, checked, compose, hydra_in_words, plain
from alignxplore_trl.recipe import READS, TARGETS
from alignxplore_trl.run.errors import UserError, user_errors_exit
from alignxplore_trl.run.folder import StageFolder, write_text
from alignxplore_trl.run.make import make, told
from alignxplore_trl.run.progress import say


@user_errors_exit()
def main() -> None:
    """Sweep, or let Hydra answer its own flags, such as --help."""
    words = sys.argv[1:]
    if {"-m", "--multirun"} & set(words):
        sweep(words)
    elif any(word.startswith("-") for word in words):
        point()
    else:
        raise UserError("sweep: expected --multirun, and a key with several values")


def sweep(words: list[str]) -> None:
    """Make the stages that all points share, run the points, and show what they came to."""
    with hydra_in_words():
        parsed = OverridesParser.create().parse_overrides([w for w in words if w[0] != "-"])
    common = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    experiment = checked(plain(compose(common)))
    swept = [o.key_or_group for o in parsed if o.is_sweep_override()]
    swept += [key.lstrip("+") for key in HydraConfig.get().sweeper.get("params") or {}]
    if not swept:
        raise UserError("sweep: no key has several values, such as rl.learning_rate=1.0e-6,5.0e-7")
    run = f'run="{experiment.run}"'
    folder = Path(experiment.paths["outputs"], experiment.run, "sweep")
    if shared := shared_target(experiment, swept):
        make([shared], [*told(), run], experiment.make)
    sys.argv += [run, f"+sweep.swept={json.dumps(swept)}", f'hydra.sweep.dir="{folder}"']
    for earlier in folder.glob("*/point.json"):
        earlier.unlink()
    try:
        point()
    finally:  # Also of a sweep that is interrupted, or whose launcher lost a job.
        rows = [json.loads(path.read_text("utf-8")) for path in folder.glob("*/point.json")]
        text = table(rows, experiment.sweep.metric, experiment.sweep.direction == "maximize")
        write_text(folder / "table.txt", text)
        sys.stdout.write(text)
    if any(row["value"] is None for row in rows):
        raise SystemExit(1)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def point(composed: DictConfig) -> float:
    """One point: its make command, and what it is worth (NaN where it failed)."""
    experiment = checked(plain(composed))
    sweep, words = experiment.sweep, told()
    own = [each for each in words if each.partition("=")[0].lstrip("+") in sweep.swept]
    label = ",".join(own).replace("/", "_")
    run = f"{experiment.run}/sweep/{label}"
    folder = Path(experiment.paths["outputs"], run)
    folder.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {"point": label, "value": None, "said": ""}
    log = folder / "log.txt"
    say(f"sweep: {label}; its log: {log}")
    words += [f'run="{run}"', f'upstream="{experiment.run}"']
    if not experiment.evaluation["benchmarks"]:
        # What is chosen by a sweep mustn't have seen the test users.
        data = HydraConfig.get().runtime.choices["data"]
        words.append(f"evaluation.benchmarks=[{data}_validation]")
    try:
        make(sweep.targets, words, experiment.make, log)
        stage, _, key = sweep.metric.partition("/")
        summary = StageFolder(folder / stage).summary()
        found = [value for name, value in summary.items() if matches(name, key)]
        if not found:
            raise UserError(f"sweep.metric: {key} matches nothing in {folder / stage}/summary.json")
        row["value"] = fmean(found)
    except (UserError, OSError) as error:
        row["said"] = str(error)
        say(f"sweep: {label} failed: {error}")
    write_text(folder / "point.json", json.dumps(row, ensure_ascii=False))
    return math.nan if row["value"] is None else float(row["value"])


def matches(name: str, key: str) -> bool:
    """Whether a key of a summary is meant: no end of an interval, and no earlier round."""
    return (
        fnmatch(name, key) and name.count("/") == key.count("/") and ("@" in name) <= ("@" in key)
    )


def shared_target(experiment: Experiment, swept: list[str]) -> str | None:
    """The last target before the points' own that no swept key concerns, if there is one."""
    shared = None
    from_backbone = experiment.rl.get("start") == "backbone"
    for stage in ("data",) if from_backbone else ("data", "synthesis", "cold_start"):
        target = TARGETS.get(stage, stage)
        pairs = product((f"{key}." for key in swept), (f"{read}." for read in READS[stage]))
        concerned = any(key.startswith(read) or read.startswith(key) for key, read in pairs)
        if concerned or target in experiment.sweep.targets:
            break
        shared = target
    return shared


def table(rows: list[dict[str, Any]], metric: str, most: bool) -> str:
    """The points from the best to the worst, and below them those that failed, with the reason."""
    done = sorted((r for r in rows if r["value"] is not None), key=lambda r: r["value"])
    lines = [f"{row['value']:10.4f}  {row['point']}" for row in done[:: -1 if most else 1]]
    lines += [f"    failed  {r['point']}: {r['said']}" for r in rows if r["value"] is None]
    return "\n".join([f"{metric}:", *lines, ""])


if __name__ == "__main__":
    main()

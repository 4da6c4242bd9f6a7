"""One recipe at many points: Hydra sweeps, each point is a make command, a table compares them."""

import sys
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alignxplore_trl.launch.config import SweepConfig
from alignxplore_trl.launch.entry import problems_of_point, run_recipe
from alignxplore_trl.launch.sweeps import (
    HYDRA_CONF,
    hydra_arguments,
    metric_in_words,
    point_of,
    points_of,
    sweep_arguments,
)
from alignxplore_trl.run.errors import user_errors_exit
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say

_SOME_FAILED = 1


def main(config: SweepConfig, folder: RunFolder) -> None:
    """Try all points that aren't finished, and show what all of them came to."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.launch.points import run_point
    from alignxplore_trl.reporting.sweeps import best_of, read_results, sweep_csv, sweep_text

    sweep, points = config.sweep, points_of(config)
    for point in points:
        for problem in problems_of_point(config, point):
            say(f"sweep: {' '.join(point)} can't run: {problem}")

    @hydra.main(version_base="1.3", config_path=str(HYDRA_CONF), config_name="points")
    def run(_: DictConfig) -> float:
        job = HydraConfig.get()
        # A point composes its recipe, which is a Hydra of its own.
        GlobalHydra.instance().clear()
        place = Path(job.runtime.output_dir)
        return run_point(config, point_of(config, job.overrides.task), place)

    sys.argv = [sys.argv[0], *hydra_arguments(config, str(folder.path.resolve()))]
    try:
        run()
    finally:  # Also of a sweep that is interrupted, or whose launcher lost a job.
        results = read_results(folder.path / "points", points)
        measured = metric_in_words(config)
        table = sweep_text(results, sweep.metric, measured, sweep.direction, "plain")
        write_text_atomic(folder.table, table + "\n")
        write_text_atomic(folder.path / "points.csv", sweep_csv(results, sweep.metric))
        print(table)

    failed = [each for each in results if each.state != "finished"]
    if failed:
        say(f"sweep: {len(failed)} of {len(results)} points failed; the same command tries again:")
        for each in failed:
            say(f"  {each.label}")
        raise SystemExit(_SOME_FAILED)
    best = best_of(results, sweep.direction)
    assert best is not None
    folder.finish(
        {"points": len(results), "best": best.label, "run": best.run, sweep.metric: best.metric}
    )


if __name__ == "__main__":
    with user_errors_exit():
        told = sweep_arguments(sys.argv[1:])
    run_recipe(SweepConfig, main, told)

"""Users and their signals, split into cold_start, rl, validation and test."""

from __future__ import annotations

from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("data")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Write one file for each split, and count what was kept and left out."""
    from alignxplore_trl.data.prepare import prepare

    return prepare(stage.build("data"), stage.folder.path, experiment.seed)


if __name__ == "__main__":
    main()

"""Users and their signals, split into cold_start, rl, validation and test."""

import sys
from pathlib import Path

from alignxplore_trl.launch.config import MappingData, PrepareConfig, PsoupsData, ReleaseData
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder, facts_of_file


def main(config: PrepareConfig, folder: RunFolder) -> None:
    """Write one Parquet file per split, and count what was kept and left out."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.data.alignx import dimensions_from_config
    from alignxplore_trl.data.mapping import load_mapping
    from alignxplore_trl.data.psoups import load_psoups
    from alignxplore_trl.data.release import read_release, write_release
    from alignxplore_trl.data.sources import load_alignx, load_world, write_splits
    from alignxplore_trl.data.splits import CaseSplits
    from alignxplore_trl.data.world import World

    data = config.data
    read = {} if data.path is None else facts_of_file(Path(data.path))
    if isinstance(data, ReleaseData):
        release = read_release(
            Path(str(data.path)),
            config.setting.name,
            config.setting.rounds,
            data.signals_per_user,
            data.counts,
            dimensions_from_config(data.dimensions),
        )
        write_release(folder.path, release)
        splits = CaseSplits([], [], [], release.cases, release.counts)
    elif isinstance(data, PsoupsData):
        splits = load_psoups(
            Path(str(data.path)),
            data.signals_per_user,
            data.counts,
            config.seed,
            reverse=data.reverse,
        )
    elif isinstance(data, MappingData):
        splits = load_mapping(
            Path(str(data.path)),
            data.mapping,
            data.signals_per_user,
            data.cases_per_user,
            data.counts,
            config.seed,
        )
    elif data.name == "world":
        world = World(
            config.seed, data.dimensions_per_user, data.signals_per_user, data.signal_kind
        )
        splits = load_world(world, data.counts)
    else:
        splits = load_alignx(
            Path(str(data.path)),
            data.signals_per_user,
            data.counts,
            config.seed,
            dimensions_from_config(data.dimensions),
            data.signal_kind,
            data.anonymise,
        )
    write_splits(folder.path, splits)
    folder.finish({**splits.counts, **read})


if __name__ == "__main__":
    run_recipe(PrepareConfig, main, sys.argv[1:])

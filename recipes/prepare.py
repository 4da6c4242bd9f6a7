"""Users and their signals, split into cold_start, rl, validation and test."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from alignxplore_trl.launch.config import AlignxData, PrepareConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder


def main(config: PrepareConfig, folder: RunFolder) -> None:
    """Write one Parquet file per split, and count what was kept and left out."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.data.sources import load_world, write_splits
    from alignxplore_trl.data.world import World

    data = config.data
    if isinstance(data, AlignxData):
        folder.finish(prepare_alignx(config, data, folder.path))
        return
    world = World(config.seed, data.dimensions_per_user, data.signals_per_user, data.signal_kind)
    splits = load_world(world, data.counts)
    write_splits(folder.path, splits)
    folder.finish(splits.counts)


def prepare_alignx(config: PrepareConfig, data: AlignxData, folder: Path) -> Mapping[str, int]:
    """Refine ALIGNX-shaped rows, or split them as they are, and describe what came of it."""
    from alignxplore_trl.data.alignx import dimensions_from_config
    from alignxplore_trl.data.refined_sets import Wanted, has_directions, refine, remove_parts
    from alignxplore_trl.data.refinement import Rules
    from alignxplore_trl.data.sources import load_alignx, write_splits
    from alignxplore_trl.data.splits import RefinedSplit
    from alignxplore_trl.reporting.data_card import load_tokenizer, write_data_card

    dimensions = dimensions_from_config(data.dimensions)
    tokenizer = load_tokenizer(data.tokenizer)
    source = str(data.path)
    refined = has_directions(source) if data.refine is None else data.refine
    if refined:
        rules = Rules(
            tuple(dimensions),
            data.minimum_dimensions,
            data.signal_kind,
            data.signals_per_user,
            config.setting.signals,
            data.test_posts.signals,
        )
        sizes: dict[RefinedSplit, int] = dict(data.counts.items())
        sizes["test_posts"] = data.test_posts.users
        counts = refine(
            source,
            folder,
            rules,
            Wanted(sizes, data.same_post_similarity, config.seed),
            workers=data.workers or os.cpu_count() or 1,
            strict=bool(data.strict),
        )
    else:
        splits = load_alignx(
            Path(source),
            data.signals_per_user,
            data.counts,
            config.seed,
            dimensions,
            data.signal_kind,
            strict=data.strict is not False,
        )
        write_splits(folder, splits)
        counts = splits.counts
    write_data_card(folder, source, counts, tokenizer)
    remove_parts(folder)
    return {"refined": refined, **counts}


if __name__ == "__main__":
    run_recipe(PrepareConfig, main, sys.argv[1:])

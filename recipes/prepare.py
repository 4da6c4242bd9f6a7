"""Users and their signals, split into cold_start, rl, validation and test."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from alignxplore_trl.data.world import RefinedSplit
from alignxplore_trl.launch.config import (
    AlignxData,
    AnyRows,
    MappingData,
    PrepareConfig,
    PsoupsData,
    ReleaseData,
    WorldData,
)
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder, facts_of_source
from alignxplore_trl.run.progress import say


def main(config: PrepareConfig, folder: RunFolder) -> None:
    """Write one Parquet file per split, and count what was kept and left out."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.data.sources import load_world, write_splits
    from alignxplore_trl.data.world import World

    data = config.data
    if isinstance(data, WorldData):
        world = World(
            config.seed, data.dimensions_per_user, data.signals_per_user, data.signal_kind
        )
        splits = load_world(world, data.counts)
        write_splits(folder.path, splits)
        folder.finish(splits.counts)
    else:
        facts = facts_of_source(str(data.path))
        counts = prepare_rows(config, data, folder.path)
        folder.finish({**counts, **facts})


def prepare_rows(config: PrepareConfig, data: AnyRows, folder: Path) -> Mapping[str, int]:
    """Write the splits of rows that somebody has, and a card that describes them."""
    from alignxplore_trl.data.refined_sets import remove_parts
    from alignxplore_trl.reporting.data_card import load_tokenizer, write_data_card

    tokenizer = load_tokenizer(data.tokenizer)
    counts = write_sets(config, data, folder)
    write_data_card(folder, str(data.path), counts, tokenizer)
    remove_parts(folder)
    say(f"prepare: {sets_in_words(counts)}; {folder / 'card.md'} says what was left out, and why")
    return counts


def write_sets(config: PrepareConfig, data: AnyRows, folder: Path) -> Mapping[str, int]:
    """Write one Parquet file per split, and say what was kept and left out."""
    from alignxplore_trl.data.mapping import load_mapping
    from alignxplore_trl.data.psoups import load_psoups
    from alignxplore_trl.data.sources import write_splits

    source = Path(str(data.path))
    match data:
        case AlignxData():
            return prepare_alignx(config, data, folder)
        case ReleaseData():
            return prepare_release(config, data, folder)
        case PsoupsData():
            splits = load_psoups(
                source,
                data.signals_per_user,
                data.counts,
                config.seed,
                reverse=data.reverse,
                anonymise=data.anonymise,
            )
        case MappingData():
            splits = load_mapping(
                source,
                data.mapping,
                data.signals_per_user,
                data.cases_per_user,
                data.counts,
                config.seed,
                anonymise=data.anonymise,
            )
    write_splits(folder, splits)
    return splits.counts


def sets_in_words(counts: Mapping[str, int]) -> str:
    """How many cases each set has, and how many fewer than asked for."""
    missing = {name: counts.get(f"cases_missing/{name}", 0) for name in get_args(RefinedSplit)}
    return ", ".join(
        f"{name} {counts[f'cases/{name}']:,}" + (f" ({few:,} too few)" if few else "")
        for name, few in missing.items()
        if f"cases/{name}" in counts
    )


def prepare_alignx(config: PrepareConfig, data: AlignxData, folder: Path) -> Mapping[str, int]:
    """Refine ALIGNX-shaped rows, or split them as they are."""
    from alignxplore_trl.data.alignx import dimensions_from_config
    from alignxplore_trl.data.refined_sets import Wanted, has_directions, refine
    from alignxplore_trl.data.refinement import Rules
    from alignxplore_trl.data.sources import load_alignx, write_splits

    source, dimensions = str(data.path), dimensions_from_config(data.dimensions)
    refined = has_directions(source) if data.refine is None else data.refine
    if not refined:
        if data.refine is None:
            say("prepare: the first row has no direction vector, so that rows aren't refined")
        splits = load_alignx(
            source,
            data.signals_per_user,
            data.counts,
            config.seed,
            dimensions,
            data.signal_kind,
            anonymise=data.anonymise,
            strict=data.strict is not False,
        )
        write_splits(folder, splits)
        return {"refined": False, **splits.counts}
    rules = Rules(
        dimensions=tuple(dimensions),
        minimum_dimensions=data.minimum_dimensions,
        signal_kind=data.signal_kind,
        signals_needed=data.signals_per_user,
        signals_of_base=config.setting.signals,
        posts_needed=data.test_posts.signals,
        anonymise=data.anonymise,
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
    return {"refined": True, **counts}


def prepare_release(config: PrepareConfig, data: ReleaseData, folder: Path) -> Mapping[str, int]:
    """The published files: prompts of training as they are, and the rows of the test as cases."""
    from alignxplore_trl.data.alignx import dimensions_from_config
    from alignxplore_trl.data.release import read_release, write_release
    from alignxplore_trl.data.sources import write_splits
    from alignxplore_trl.data.splits import CaseSplits

    release = read_release(
        Path(str(data.path)),
        config.setting.name,
        config.setting.rounds,
        data.signals_per_user,
        data.counts,
        dimensions_from_config(data.dimensions),
        anonymise=data.anonymise,
    )
    write_release(folder, release)
    write_splits(folder, CaseSplits([], [], [], release.cases, release.counts))
    return release.counts


if __name__ == "__main__":
    run_recipe(PrepareConfig, main, sys.argv[1:])

"""Sources to splits, and splits to files and back."""

import json
from pathlib import Path

import pytest

from alignxplore_trl.data.alignx import Dimension
from alignxplore_trl.data.sources import SPLITS, load_alignx, load_world, read_split, write_splits
from alignxplore_trl.data.world import World
from alignxplore_trl.run.errors import UserError

FIXTURE = Path(__file__).parents[1] / "fixtures/alignx.jsonl"
SIZES = {"cold_start": 2, "rl": 4, "validation": 2, "test": 4}
DIMENSIONS = [Dimension(f"trait {n}", f"has trait {n}", f"lacks trait {n}") for n in range(90)]


def load_fixture(**changes):
    settings = {"signals_needed": 8, "counts": SIZES, "seed": 0, "dimensions": DIMENSIONS}
    return load_alignx(str(FIXTURE), **settings | changes)


def test_the_world_has_as_many_users_as_are_asked_for():
    splits = load_world(World(seed=0), {"cold_start": 5, "rl": 7, "validation": 2, "test": 3})
    assert {split: len(splits[split]) for split in SPLITS} == {
        "cold_start": 5, "rl": 7, "validation": 2, "test": 3,
    }  # fmt: skip
    assert splits.counts == {
        "cases/cold_start": 5, "cases/rl": 7, "cases/validation": 2, "cases/test": 3,
    }  # fmt: skip


def test_a_world_that_cannot_be_drawn_is_refused_with_all_reasons():
    with pytest.raises(UserError) as error:
        load_world(World(seed=0, dimensions_per_user=40, signals_per_user=0), {"test": 1})
    assert len(error.value.problems) == 2


def test_alignx_rows_are_read_and_split():
    splits = load_fixture()
    assert {split: len(splits[split]) for split in SPLITS} == SIZES
    assert splits.counts["rows"] == 12
    assert splits.counts["cases_left_over"] == 0
    described = [case for split in SPLITS for case in splits[split] if case.description]
    assert len(described) == 6


def test_reasons_of_reading_and_of_splitting_are_reported_together():
    counts = load_fixture(signals_needed=9, signal_kind="mixed").counts
    assert counts["cases_dropped/too_few_signals"] > 0
    assert counts["cases_dropped/shared_post"] == 0
    kept = sum(counts[f"cases/{split}"] for split in SPLITS)
    assert (
        kept + counts["cases_dropped/too_few_signals"] + counts["cases_left_over"] == counts["rows"]
    )


def test_anonymised_cases_are_written_without_what_was_found(tmp_path):
    rows = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["prompt"] += " mail ada@example.com"
        row["user"] = f"ada_{number}"
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    for anonymise in (True, False):
        settings = {"signals_needed": 8, "counts": SIZES, "seed": 0, "dimensions": DIMENSIONS}
        splits = load_alignx(str(source), **settings, anonymise=anonymise)
        write_splits(tmp_path, splits)
        written = [case for split in SPLITS for case in read_split(tmp_path, split)]
        assert ("ada" not in repr(written)) is anonymise
        assert splits.counts.get("anonymised/email_addresses", 0) == len(rows) * anonymise


@pytest.mark.parametrize("signal_kind", ["comparisons", "mixed"])
def test_written_splits_are_read_back(tmp_path, signal_kind):
    for splits in (
        load_fixture(signals_needed=1, signal_kind=signal_kind),
        load_world(World(seed=1, signal_kind=signal_kind), {"cold_start": 3, "test": 2}),
    ):
        write_splits(tmp_path, splits)
        for split in SPLITS:
            assert read_split(tmp_path, split) == splits[split]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            f"{split}.parquet" for split in SPLITS
        )


def test_the_same_cases_give_the_same_bytes(tmp_path):
    for folder in ("one", "other"):
        write_splits(tmp_path / folder, load_fixture())
    for split in SPLITS:
        one, other = (tmp_path / folder / f"{split}.parquet" for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"rl\.parquet: no such file; prepare the data first"):
        read_split(tmp_path, "rl")
    (tmp_path / "rl.parquet").write_bytes(b"half a fi")
    with pytest.raises(UserError, match=r"rl\.parquet: not a readable Parquet file"):
        read_split(tmp_path, "rl")

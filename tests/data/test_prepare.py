"""From a source to files: each split is one, and half a file is never left behind."""

from collections import Counter

import pytest

from alignxplore_trl.cases import read_cases
from alignxplore_trl.data.prepare import prepare
from alignxplore_trl.data.world import World

SIZES = {"cold_start": 40, "rl": 40, "validation": 10, "test": 20}


def test_splits_are_files_and_counts_are_numbers(tmp_path):
    counts = prepare(World(SIZES, 2, 4), tmp_path, 3)
    assert counts == {f"cases/{split}": size for split, size in SIZES.items()}
    splits = World(SIZES, 2, 4).cases(Counter(), 3)
    assert {name: read_cases(tmp_path / f"{name}.jsonl") for name in SIZES} == splits
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.jsonl" for name in SIZES)


def test_what_fails_leaves_no_half_file_and_the_same_command_again_mends_it(tmp_path):
    class Failing(World):
        def cases(self, counts, seed):
            return super().cases(counts, seed) | {"test": [object()]}

    with pytest.raises(TypeError):
        prepare(Failing(SIZES, 2, 4), tmp_path / "a", 3)
    assert not (tmp_path / "a/test.jsonl").exists()
    for name in "ab":
        prepare(World(SIZES, 2, 4), tmp_path / name, 3)
    assert (tmp_path / "a/test.jsonl").read_bytes() == (tmp_path / "b/test.jsonl").read_bytes()

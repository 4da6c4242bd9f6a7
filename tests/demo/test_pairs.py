"""Pairs hide which reply was chosen before, and files hold nothing but comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.demo.pairs import Pair, pairs_of, read_comparisons, world_comparisons
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison


def test_a_choice_is_the_signal_of_its_side() -> None:
    pair = Pair("post", "one", "other", "items")
    assert pair.chosen("left") == Comparison("post", "one", "other", "items")
    assert pair.chosen("right") == Comparison("post", "other", "one", "items")


def test_sides_are_drawn_from_the_seed_and_the_order_is_kept() -> None:
    comparisons = world_comparisons(World(seed=3), 20)
    assert len(comparisons) == 20 * 8
    pairs = pairs_of(comparisons, seed=1)
    assert pairs == pairs_of(comparisons, seed=1) != pairs_of(comparisons, seed=2)
    assert [pair.post for pair in pairs] == [comparison.post for comparison in comparisons]
    first = [pair.left == own.chosen for pair, own in zip(pairs, comparisons, strict=True)]
    assert 50 < sum(first) < 110


def test_a_world_of_posts_and_comparisons_gives_the_comparisons() -> None:
    found = world_comparisons(World(seed=3, signal_kind="mixed"), 20)
    assert 40 < len(found) < 120


def rows_file(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_file_of_comparisons_is_read_in_its_order(tmp_path: Path) -> None:
    rows = [{"post": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(3)]
    found = read_comparisons(rows_file(tmp_path / "pairs.jsonl", *rows))
    assert [comparison.post for comparison in found] == ["p0", "p1", "p2"]


def test_other_rows_are_refused_with_their_place(tmp_path: Path) -> None:
    file = rows_file(
        tmp_path / "pairs.jsonl",
        {"post": "p", "chosen": "a", "rejected": "b"},
        {"post": "p", "comment": "mine"},
        {"text": "a teacher"},
    )
    with pytest.raises(UserError) as error_info:
        read_comparisons(file)
    assert [problem.split(", expected")[0] for problem in error_info.value.problems] == [
        f"demo.pairs: {file}, row 2, kind: post found",
        f"demo.pairs: {file}, row 3, kind: attributes found",
    ]

"""Imports point one way, so that a part can be read and tested without those above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "alignxplore_trl"
# From the top to the ground: a part may import those below it, and those beside it.
FLOORS = [
    {"recipes", "recipe", "config", "preflight", "command_line", "demo"},
    {"reporting"},
    {"evaluation", "synthesis"},
    {"baselines", "inference", "training"},
    {"rewards"},
    {"judging"},
    {"shared_prefix", "data"},
    {"text"},
    {"cases"},
    {"run"},
]
HEIGHT = {part: -number for number, floor in enumerate(FLOORS) for part in floor}
FILES = sorted([*SOURCE.rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])


def part_of(path: Path) -> str:
    if not path.is_relative_to(SOURCE):
        return "recipes"
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts that a file imports anywhere, inside functions and type checks included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    dotted = [name.split(".") for name in names]
    return {name[1] for name in dotted if name[0] == "alignxplore_trl" and len(name) > 1}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_its_own_part_and_those_below(path: Path) -> None:
    part = part_of(path)
    for other in imported(path) - {part}:
        assert HEIGHT[other] <= HEIGHT[part], f"{part} imports {other}, which is above it"
        if other in ("recipe", "config", "preflight"):
            assert part in ("recipes", "recipe", "config", "preflight")


def test_no_two_parts_need_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part_of(path), set()).update(imported(path) - {part_of(path)})
    TopologicalSorter(graph).prepare()


def test_the_ground_needs_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in FILES
        if part_of(path) in ("run", "cases", "text", "data", "recipe", "config", "preflight")
        if path.name != "__init__.py"
    ]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules, 'torch'"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

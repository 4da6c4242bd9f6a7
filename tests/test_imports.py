"""Imports point one way, so that a part can be read and tested without those above it."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "alignxplore_trl"
# From the top to the ground: a part may import those below it, and `run` is open to all.
ROWS = [
    {"recipes", "command_line", "demo"},
    {"launch", "training", "synthesis", "evaluation", "reporting", "inference"},
    {"rewards", "baselines"},
    {"judging", "data"},
    {"text"},
    {"signals"},
    {"run"},
]
HEIGHT = {part: -number for number, row in enumerate(ROWS) for part in row}
SOURCES = sorted([*(ROOT / "src" / PACKAGE).rglob("*.py"), *(ROOT / "recipes").glob("*.py")])


def part_of(path: Path) -> str | None:
    """The part a file belongs to; `None` for the package's own `__init__`."""
    if path.is_relative_to(ROOT / "recipes"):
        return "recipes"
    part = path.relative_to(ROOT / "src" / PACKAGE).parts[0].removesuffix(".py")
    return None if part == "__init__" else part


def imported_modules(path: Path) -> set[str]:
    """The dotted names a file imports anywhere, inside functions and type checks included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from alignxplore_trl import data` imports a part too.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_parts(path: Path) -> set[str]:
    dotted = [name.split(".") for name in imported_modules(path)]
    parts = {names[1] for names in dotted if names[0] == PACKAGE and len(names) > 1}
    return parts | {"recipes" for names in dotted if names[0] == "recipes"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_its_own_part_and_those_below(path):
    part = part_of(path)
    if part is None:
        assert not imported_parts(path)
        return
    for other in imported_parts(path) - {part}:
        assert other in HEIGHT, f"{other} has no place among the parts"
        assert HEIGHT[other] <= HEIGHT[part], f"{part} imports {other}, which is above it"


def test_no_two_parts_need_each_other():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if part := part_of(path):
            graph.setdefault(part, set()).update(imported_parts(path) - {part})
    TopologicalSorter(graph).prepare()


def test_every_part_has_its_place_and_the_check_sees_them():
    parts = {part_of(path) for path in SOURCES} - {None}
    assert parts <= set(HEIGHT)
    assert {"signals", "text", "data", "run"} <= parts
    rounds = ROOT / "src" / PACKAGE / "data/rounds.py"
    assert imported_parts(rounds) == {"run", "signals", "text"}


def test_the_parser_of_completions_stands_alone():
    path = ROOT / "src" / PACKAGE / "text/parsing.py"
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert roots <= sys.stdlib_module_names

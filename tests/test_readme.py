"""The commands, examples and links of the documents are true, short of running them."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alignxplore_trl.command_line import main as alignxplore
from alignxplore_trl.config import checked, compose, plain
from alignxplore_trl.preflight import check_targets
from tests.recipes.test_makefile import make

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
    return [text for name, text in found if name in languages]


def commands(document: Path, program: str) -> Iterator[list[str]]:
    """The words behind a program in the shell blocks of a document, variables filled in."""
    text = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    variables = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
    for line in re.findall(rf"^(?:\w+=\S+ )*{program} (.*)$", text, re.M):
        yield shlex.split(string.Template(line).safe_substitute(variables), comments=True)


def overrides(dry_run: str) -> set[tuple[str, ...]]:
    """What the recipes that make would start are told; of a sweep, its first point."""
    found = set()
    for line in re.findall(r" recipes/\w+\.py (.*?)(?: --cfg .*)?(?: ##.*)?$", dry_run, re.M):
        told = [word for word in shlex.split(line) if "=" in word and "push_to_hub" not in word]
        parsed = OverridesParser.create().parse_overrides(told)
        points = (next(o.sweep_string_iterator()) if o.is_sweep_override() else "" for o in parsed)
        both = zip(parsed, points, strict=True)
        found.add(tuple(f"{o.key_or_group}={p}" if p else str(o.input_line) for o, p in both))
    return found


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder mine/ with the files that the documents show."""
    for text in (text for each in DOCUMENTS for text in blocks(each, "python", "yaml")):
        if named := re.search(r"^# (mine/[\w/.]+)", text, re.M):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.chdir(ROOT)
    return tmp_path / "mine"


@every_document
def test_commands_would_run(document: Path, mine: Path) -> None:
    told = set()
    for words in commands(document, "make"):
        done = make(*words, "VENV=none")  # So that nobody is asked for the models of a scale.
        assert done.returncode == 0, f"make {words}: {done.stderr}"
        told |= overrides(done.stdout)
    for each in told:
        values = plain(compose([word.replace("=[mine]", f"=[{mine}]") for word in each]))
        checked(values)
        check_targets(values)


@every_document
def test_alignxplore_has_what_is_shown(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(document, ".venv/bin/alignxplore"):
        with pytest.raises(SystemExit):
            alignxplore([*words, "--none"])  # Is refused, and nothing else is.
        assert capsys.readouterr().err.endswith("unrecognized arguments: --none\n"), words


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s:]+)\)", document.read_text("utf-8")):
        path, _, heading = link.partition("#")
        target = document.parent / path
        assert target.exists(), link
        heads = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M) if heading else []
        slugs = ["", *(re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads)]
        assert heading in slugs, link


def test_newcomers_find_their_two_commands_first() -> None:
    shown = blocks(ROOT / "README.md", "sh")[0].splitlines()
    assert [line.partition("#")[0].strip() for line in shown] == ["make rl-streaming", "make test"]

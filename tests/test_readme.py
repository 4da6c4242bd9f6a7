"""The commands and links of README.md and docs/ are true: each is tried, short of running it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from alignxplore_trl.launch.checks import check_config
from alignxplore_trl.launch.compose import missing_values
from alignxplore_trl.launch.config import CONFIGS, SweepConfig, read_values
from alignxplore_trl.launch.entry import problems_of_point, resolve
from alignxplore_trl.launch.sweeps import points_of, sweep_arguments
from alignxplore_trl.launch.trainer_fields import check_trainer
from alignxplore_trl.run.errors import Problems, UserError

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
FIRST_SCREEN = 60
RESULTS = ("<!-- results: begin -->", "<!-- results: end -->")

_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_RECIPE = re.compile(r"recipes/(\w+)\.py")
# Files that a reader has, or that are made first, and keys: the only parts that aren't tried.
_ABOUT_FILES = re.compile(
    r"evaluation\.prepared: the run \S+ isn't there|"
    r"demo\.(pairs: found no file|model: found no folder)|"
    r"(data\.path|model\.(backbone|teacher)|judge\.(test_)?model): |"
    r"teacher\.server\.key_variable: the environment variable TEACHER_KEY isn't set|"
    r"language_model\.server\.key_variable: the environment variable LANGUAGE_MODEL_KEY isn't set"
)


def make_commands(markdown: str) -> Iterator[str]:
    """The make commands in the fenced code blocks of a document, without their comments."""
    for block in _FENCED.findall(markdown):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|;", line):
                # Behind variables of the environment, too: CUDA_VISIBLE_DEVICES=0 make …
                if found := re.match(r"\s*(\$ )?(\w+=\S+ +)*(?=make\b)", command):
                    yield " ".join(command[found.end() :].split(" #")[0].split())


def dry_run(command: str) -> list[str]:
    """The lines that make would run.

    Raises:
        ValueError: there is no such target, or no such variable.
    """
    _, *words = shlex.split(command)
    variables = set(re.findall(r"^(\w+) [?:]=", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for word in words:
        name, given, _ = word.partition("=")
        if given and name not in variables:
            raise ValueError(f"{command}: the Makefile has no variable {name}")
    make = shutil.which("make")
    assert make is not None, "make is not installed"
    # Only what make needs: under `make test` its own variables would reach this one.
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [make, "-n", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{command}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def check_command(command: str) -> list[str]:
    """Compose and check the configuration of every recipe a command runs; name them, in order.

    Raises:
        ValueError: make would refuse the command.
        UserError: a recipe would refuse its overrides. Files that aren't there don't count.
    """
    recipes = []
    for line in dry_run(command):
        script = _RECIPE.search(line)
        if script is not None:
            flags = ("--print-config", "--preflight")
            words = [word for word in shlex.split(line[script.end() :]) if word not in flags]
            written_for = script[1]
            if script[1] == "sweep":
                words = sweep_arguments(words)
            while words and words[0] in ("--for", "--then"):
                option, recipe, *words = words
                written_for = recipe if option == "--for" else written_for
            _check_configuration(script[1], written_for, tuple(words))
            recipes.append(script[1])
    return recipes


@cache
def _check_configuration(recipe: str, written_for: str, overrides: tuple[str, ...]) -> None:
    values = resolve(recipe, written_for, overrides)
    problems = Problems(missing_values(values))
    problems.raise_if_any()
    config = read_values(CONFIGS[recipe], values, problems)
    if "trainer" in values:
        check_trainer(values["recipe"], values["trainer"], problems)
    if config is not None:
        check_config(config, problems)
    if isinstance(config, SweepConfig):
        for point in points_of(config):
            problems.found += problems_of_point(config, point)
    Problems([p for p in problems.found if not _ABOUT_FILES.match(p)]).raise_if_any()


COMMANDS = [
    pytest.param(command, id=f"{document.name}: {command}")
    for document in DOCUMENTS
    for command in dict.fromkeys(make_commands(document.read_text()))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_would_run(command):
    check_command(command)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("make rl-streming", "rl-streming"),
        ("make rl SCLAE=tiny", "SCLAE"),
        ("make rl SCALE=huge", "scale=huge"),
        ("make rl LAUNCH=gpu9", "LAUNCH=gpu9: no such launch"),
        ("make evaluate LAUNCH=zero2", "an evaluation holds whole models"),
        ("make rl SCALE=paper_7b", "data.path"),
        ("make rl SETTING=base ARGS='setting.rounds=2'", "setting.rounds"),
        ("make rl-streaming ARGS='trainer.learning_rat=1.0e-4'", "trainer.learning_rat"),
        ("make rl-streaming ARGS='trainer.num_generations=7'", "trainer.num_generations"),
        ("make evaluate ARGS='evaluation.settings=[base4+4]'", "base4+4"),
        ("make config RECIPE=rl ARGS='sede=1'", "sede"),
        ("make sweep ARGS='trainer.num_generations=4,7'", "not a multiple of 7 rollouts"),
    ],
)
def test_a_command_that_would_not_run_is_found(command, found):
    with pytest.raises((ValueError, UserError), match=re.escape(found)):
        check_command(command)


def test_commands_are_found_in_fenced_blocks_only():
    text = (
        "Call `make no`.\n\nmake no\n\n```sh\nmake a X=1  # why\n\n$ make b \\\n  Y=2\n"
        "cd here && make c\ncmake no\n```\n\n```\nmake d\n```\n"
    )
    assert list(make_commands(text)) == ["make a X=1", "make b Y=2", "make c", "make d"]


def test_every_stage_of_a_chain_is_checked():
    stages = check_command("make rl-streaming")
    assert stages == ["prepare", "synthesize", "cold_start", "rl", "evaluate"]


def test_the_two_commands_stand_on_the_first_screen():
    screen = "\n".join(README.read_text().splitlines()[:FIRST_SCREEN])
    assert {"make rl-streaming", "make test"} <= set(make_commands(screen))


def test_results_have_one_place_in_the_readme():
    lines = README.read_text().splitlines()
    begin, end = (lines.index(marker) for marker in RESULTS)
    assert begin < end
    assert [README.read_text().count(marker) for marker in RESULTS] == [1, 1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_into_the_repository_lead_somewhere(document):
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link]
    assert links
    missing = [link for link in links if not (document.parent / link.split("#")[0]).exists()]
    assert not missing

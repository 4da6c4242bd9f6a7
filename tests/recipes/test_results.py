"""The tables of the README: which commands are given, and what is made of their evaluations."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_readme import check_command

ROOT = Path(__file__).parents[2]
PAGE = "# Page\n\n<!-- results: begin -->\nnone\n<!-- results: end -->\nrest\n"
# In the place of make: notes the command and leaves the evaluation that it ends in.
MAKE = f"""#!{sys.executable}
import json, shlex, sys
from pathlib import Path
target, *words = sys.argv[1:]
given = dict(word.split("=", 1) for word in words)
overrides = shlex.split(given.get("ARGS", ""))
outputs = Path(next(each for each in overrides if each.startswith("paths.outputs"))[14:])
outputs.mkdir(parents=True, exist_ok=True)
with (outputs / "commands").open("a") as file:
    file.write(shlex.join(["make", target, *words]) + "\\n")
seed = int(given["SEED"])
if target in ("rl-streaming", "evaluate"):
    sys.path.insert(0, {str(ROOT)!r})
    from alignxplore_trl.launch.entry import resolve
    from tests.reporting.evaluations import write_evaluation
    command = "rl" if target == "rl-streaming" else "evaluate"
    told = ["scale=tiny", f"seed={{seed}}", "setting=streaming", *overrides]
    name = resolve("evaluate", command, told)["run_name"]
    shares = {{("golden", "base4"): 0.9}} if command == "rl" else {{("extra", "base4"): 0.6}}
    write_evaluation(outputs / "evaluate" / name, seed, {{"world": shares}}, 40)
"""


def test_every_seed_is_trained_scored_and_shown(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(MAKE)
    make.chmod(make.stat().st_mode | stat.S_IXUSR)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{make.parent}{os.pathsep}{path}")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    run("results", tmp_path / "outputs", f"document={page}", "seeds=[1,4]",
        "overrides=['trainer.max_steps=4','data.dimensions_per_user=2']")  # fmt: skip
    filled = page.read_text()
    assert filled.startswith("# Page\n\n<!-- results: begin -->\n| method")
    assert filled.endswith("<!-- results: end -->\nrest\n")
    assert "| golden " in filled
    assert "| extra " in filled
    assert "mean of 2 seeds" in filled
    commands = (tmp_path / "outputs" / "commands").read_text().splitlines()
    assert [line.split()[1] for line in commands] == 2 * [
        "rl", "rl", *2 * ["rl", "cold-start"], "vpl", "rl-streaming", "evaluate",
    ]  # fmt: skip
    monkeypatch.setenv("PATH", path)
    for line in commands[:9]:
        check_command(line)
    (vpl,) = (line for line in commands[:9] if line.startswith("make vpl"))
    assert "max_steps" not in vpl
    assert "SETTING" not in vpl

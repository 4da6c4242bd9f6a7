"""Recipes that start others through make: words arrive as they are, and a failure says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.make import make

MAKEFILE = """
.PHONY: told fails
told: ; @printf '%s\\n' $(ARGS) SCALE=$(SCALE) START=$(START) LAUNCH=$(LAUNCH) RUN=$(RUN) > told
fails: ; @echo "error: rl.beta: 'x' found" >&2; exit 2
crashes: ; @printf 'Traceback\\n  File\\ntorch.OutOfMemoryError: out of memory\\nmore\\n'; exit 1
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def test_words_arrive_as_they_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "RUN=outer")
    words = ["scale=one_gpu", 'run="a b"', "data.path=it's ${x} (1)#2", "rl.start=backbone"]
    make(["told"], words, ["LAUNCH=zero3", "GPUS="])
    told = (project / "told").read_text().splitlines()
    assert told == [*words, "SCALE=one_gpu", "START=backbone", "LAUNCH=zero3", "RUN="]


def test_a_failure_says_why(project: Path) -> None:
    with pytest.raises(UserError, match=r"^error: rl\.beta: 'x' found$"):
        make(["fails"], [], log=project / "log.txt")
    with pytest.raises(UserError, match=r"^torch\.OutOfMemoryError: out of memory$"):
        make(["crashes"], [], log=project / "log.txt")

"""The page of make demo: with scripted models in this process, and by its recipe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from alignxplore_trl.demo.models import DemoModels
from alignxplore_trl.demo.page import build_page, served
from alignxplore_trl.demo.rounds import Rounds

ROOT = Path(__file__).parents[2]
SECONDS_TO_START = 240.0
Serve = Callable[[Rounds, DemoModels], str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a page of this process; its address."""
    with ExitStack() as pages:
        yield lambda rounds, models: pages.enter_context(
            served(build_page(rounds, models, "By <b>nobody</b>."), "127.0.0.1", free_port())
        )


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the recipe serves the page, with the small models that ship."""
    outputs, port = tmp_path_factory.mktemp("outputs"), free_port()
    told = [f"paths.outputs={outputs}", f"demo.port={port}", "demo.candidates=2"]
    log = outputs / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "recipes/demo.py", *told],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=stream,
        )
    give_up = time.monotonic() + SECONDS_TO_START
    while "shows the page" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    assert "make rl-streaming trains one" in log.read_text()
    assert "demo: stopped" in log.read_text()
    kept = {file.name for file in outputs.rglob("*") if file.is_file()} - {"log", ".lock"}
    assert kept == {"config.yaml", "environment.txt"}  # Nothing of any visitor.

"""Writers in a real vLLM on the CPU: an engine in its process, and a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignxplore_trl.inference.writers import EndpointWriter, TransformersWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TEACHER = str(ROOT / "assets" / "teacher")
PYTHON = str(ROOT / ".venv-vllm" / "bin" / "python")
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
# In one process instead of three, each of which takes long to import vLLM.
ALONE = {**SMALL, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
GREEDY: dict[str, Any] = {"chat": False, "temperature": 0.0, "top_p": 1.0, "top_k": None}
PROMPT = "<post> 1 buying chairs nearby<chosen> haha, brief<rejected> blunt, doubt<think>"
TALKS = [PROMPT, "<post> b<think>", "<post> " * 2100]


@pytest.fixture(scope="module")
def expected() -> list[str | None]:
    """The most probable texts, by transformers."""
    model = TransformersWriter(model=TEACHER, dtype="float32", max_new_tokens=24, **GREEDY)
    return [None if own is None else own.text for [own] in model.write(TALKS)]


def main(prompts: list[str]) -> None:
    """What `test_an_engine` runs where vLLM is: two engines, one after the other."""
    from alignxplore_trl.inference.writers import VllmWriter

    engine = {"dtype": "float32", "enforce_eager": True}
    found: dict[str, Any] = {}
    for name, temperature in (("most probable", 0.0), ("sampled", 0.9)):
        how = {**GREEDY, "temperature": temperature, "top_k": 10}
        model = VllmWriter(model=TEACHER, max_new_tokens=24, engine=engine, **how)
        model.load()
        for order in (prompts, prompts[::-1]):
            rows = [[own and own.text for own in row] for row in model.write(order, 3, seed=5)]
            found.setdefault(name, []).append(rows if order is prompts else rows[::-1])
        found[f"{name} unanswered"] = dict(model.counts)
        model.close()
    sys.stdout.write(f"\nfound {json.dumps(found)}\n")


def test_an_engine_writes_as_transformers_does_and_another_follows_it(
    expected: list[str | None],
) -> None:
    done = subprocess.run(
        [PYTHON, __file__],
        input=json.dumps(TALKS), env=os.environ | ALONE, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line.removeprefix("found "))
    assert found["most probable"][0] == [[text] * 3 for text in expected]
    assert found["most probable unanswered"] == {"too_long": 6}
    # Texts of one prompt differ, and are the same ones in whatever order.
    once, turned = found["sampled"]
    assert len({text for row in once[:2] for text in row}) > 3
    assert turned == once


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As `make serve-teacher` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", TEACHER]
    command += ["--served-model-name", "teacher", "--port", str(port), "--dtype", "float32"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=os.environ | SMALL, stdout=output, stderr=output)
    try:
        for _ in range(600):
            time.sleep(1)
            assert server.poll() is None, log.read_text()[-4000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                continue
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def test_a_server_writes_as_transformers_does(url: str, expected: list[str | None]) -> None:
    model = EndpointWriter(urls=[url], served_as="teacher", max_new_tokens=24, **GREEDY)
    model.load()
    answers = model.write(TALKS)
    assert [None if own is None else own.text for [own] in answers] == expected
    assert model.counts == {"too_long": 1}
    [[own], *_] = answers
    assert own is not None
    assert own.prompt_tokens > 10
    assert 0 < own.completion_tokens <= 24


if __name__ == "__main__":
    main(json.load(sys.stdin))

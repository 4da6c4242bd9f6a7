"""Writers in a real vLLM on the CPU: an engine in its process, and a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from alignxplore_trl.inference.writers import EndpointWriter, TransformersWriter
from tests.judging.test_server_slow import MODEL, ROOT, url  # noqa: F401 - url is a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TEACHER = str(ROOT / "assets" / "teacher")
# In one process instead of three, each of which takes long to import vLLM.
ALONE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), **ALONE}
GREEDY: dict[str, Any] = {"chat": False, "temperature": 0.0, "top_p": 1.0, "top_k": None}
PROMPT = "<post> 1 buying chairs nearby<chosen> haha, brief<rejected> blunt, doubt<think>"
TALKS = [PROMPT, "<post> b<think>", "<post> " * 2100]


def in_transformers(model: str) -> list[str | None]:
    one = TransformersWriter(model=model, dtype="float32", max_new_tokens=24, **GREEDY)
    return [None if own is None else own.text for [own] in one.write(TALKS)]


def main(prompts: list[str]) -> None:
    """What `test_an_engine` runs where vLLM is: two engines, one after the other."""
    from alignxplore_trl.inference.writers import VllmWriter

    found: dict[str, Any] = {}
    for name, temperature in (("most probable", 0.0), ("sampled", 0.9)):
        how = {**GREEDY, "temperature": temperature, "top_k": 10, "max_new_tokens": 24}
        engine = {"dtype": "float32", "enforce_eager": True}
        model = VllmWriter(model=TEACHER, engine=engine, **how)
        for order in (prompts, prompts[::-1]):
            rows = [[own and own.text for own in row] for row in model.write(order, 3, seed=5)]
            found.setdefault(name, []).append(rows if order is prompts else rows[::-1])
        found[f"{name} unanswered"] = dict(model.counts)
        model.close()
    sys.stdout.write(f"\nfound {json.dumps(found)}\n")


def test_an_engine_writes_as_transformers_does_and_another_follows_it() -> None:
    done = subprocess.run(
        [str(ROOT / ".venv-vllm" / "bin" / "python"), "-m", "tests.inference.test_writers_slow"],
        input=json.dumps(TALKS), env=os.environ | ENVIRONMENT, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    assert found["most probable"][0] == [[text] * 3 for text in in_transformers(TEACHER)]
    assert found["most probable unanswered"] == {"too_long": 6}
    # Texts of one prompt differ, and are the same ones in whatever order.
    once, turned = found["sampled"]
    assert len({text for row in once[:2] for text in row}) > 3
    assert turned == once


def test_a_server_writes_as_transformers_does(url: str) -> None:  # noqa: F811
    model = EndpointWriter(urls=[url], served_as="judge", max_new_tokens=24, **GREEDY)
    model.load()
    answers = model.write(TALKS)
    assert [None if own is None else own.text for [own] in answers] == in_transformers(MODEL)
    assert model.counts == {"too_long": 1}
    [[own], *_] = answers
    assert own is not None
    assert own.prompt_tokens > 10
    assert 0 < own.completion_tokens <= 24


if __name__ == "__main__":
    main(json.load(sys.stdin))

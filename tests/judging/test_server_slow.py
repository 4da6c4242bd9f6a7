"""Judge and generator of a real vLLM server on the CPU, and against those of this process."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.judging.local import LocalGenerator, LocalJudge
from alignxplore_trl.judging.protocol import Question
from alignxplore_trl.judging.server import Letters, ServedGenerator, ServedJudge
from alignxplore_trl.text.prompts import Prompts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "assets" / "judge")
SERVED = {"model": MODEL, "served_as": "judge", "chat": False}
LOCAL = {"model": MODEL, "dtype": "float32", "chat": False}
DESCRIPTIONS = ("prefers brief", "prefers warm, playful", None)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As `make serve-judge` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    python = ROOT / ".venv-vllm" / "bin" / "python"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL]
    command += ["--served-model-name", "judge", "--port", str(port), "--generation-config", "vllm"]
    command += ["--dtype", "float32", "--enforce-eager"]
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=os.environ | small, stdout=output, stderr=output)
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


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """120 questions: descriptions that fit some users and not others."""
    world = World(sizes={"validation": 40}, rounds=1, signals=4)
    return [
        Question(case.target.post, description, case.target.chosen, case.target.rejected)
        for case in world.cases(None, 3)["validation"]  # type: ignore[arg-type]
        for description in DESCRIPTIONS
    ]


@pytest.mark.parametrize("letters", ["token_ids", "top_logprobs"])
def test_the_server_judges_as_the_local_judge(
    url: str, questions: list[Question], letters: Letters
) -> None:
    judge = ServedJudge(**SERVED, urls=[url], prompts="compact", letters=letters)
    judge.load()
    local = LocalJudge(**LOCAL, prompts="compact").judge(questions)
    off, spread = [], []
    for found, expected in zip(judge.judge(questions), local, strict=True):
        assert found is not None
        assert expected is not None
        off.append(abs(found.probability_a - expected.probability_a))
        spread.append(expected.probability_a)
        assert found.label_mass == pytest.approx(expected.label_mass, abs=1e-5)
    assert min(spread) < 0.1 < 0.9 < max(spread)
    assert not judge.counts
    # Here in float32 and in float64, the largest difference is 1.7e-6.
    if letters == "token_ids":
        assert sum(off) / len(off) < 1e-6
        assert max(off) < 2e-6
    assert max(off) < 1e-3, "of letters that aren't among the five listed"


def test_the_server_scores_replies_as_the_local_generator(
    url: str, questions: list[Question]
) -> None:
    prompts = Prompts("compact")
    texts = [prompts.render("reply", post=q.post, description=q.description) for q in questions]
    replies = [question.response_a for question in questions]
    generator = ServedGenerator(**SERVED, urls=[url])
    generator.load()
    local = LocalGenerator(**LOCAL).log_probabilities(texts, replies)
    found = generator.log_probabilities(texts, replies)
    assert found == pytest.approx(local, abs=1e-5)

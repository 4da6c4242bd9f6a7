"""The server judge and generator against real vLLM on the CPU, and against the local ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.judging.client import ServerSettings
from alignxplore_trl.judging.generator import Continuation, response_log_probabilities
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.server import ServerGenerator, ServerJudge
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import Serve, ServeJudgeConfig, read_values
from alignxplore_trl.launch.serving import VllmServer
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.text.rendering import PromptSet, Question

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
JUDGE = ROOT / "assets" / "judge"
DESCRIPTIONS = ("prefers brief", "prefers warm, playful", None)


def vllm_python() -> Path:
    """Python with vLLM: of VLLM_PYTHON, or of .venv-vllm, which is made where it is missing."""
    if given := os.environ.get("VLLM_PYTHON"):
        return Path(given)
    path = ROOT / ".venv-vllm" / "bin" / "python"
    if not (path.parents[1] / "stamp").is_file():
        # Under `make test-slow` the outer make's own variables would reach this one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        subprocess.run(["make", ".venv-vllm/stamp"], cwd=ROOT, env=own, check=True)
    return path


@pytest.fixture(scope="module")
def serve() -> Serve:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    values = {**compose_recipe("serve_judge", []), "run_name": "x"}
    config = read_values(ServeJudgeConfig, values, Problems())
    assert config is not None
    return replace(
        config.serve,
        model=str(JUDGE),
        name="judge",
        port=port,
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
        python=str(vllm_python()),
        start_timeout=600,
    )


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(serve, 0, tmp_path_factory.mktemp("server")) as server:
        server.wait_until_healthy()
        yield server


@pytest.fixture(scope="module")
def local(prompts: PromptSet) -> LocalJudge:
    return LocalJudge.from_folder(JUDGE, prompts, dtype="float32", max_batch_tokens=8192)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """120 questions: targets of the world, with descriptions that fit some and not others."""
    cases = World(seed=3).cases("validation", 40)
    return [
        Question(case.target.post, description, case.target.chosen, case.target.rejected)
        for case in cases
        for description in DESCRIPTIONS
    ]


def settings(server: VllmServer, **changes: float) -> ServerSettings:
    usual = ServerSettings(
        (server.url,), "judge", concurrency=16, request_timeout=60.0, deadline=300.0
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("letters", ["token_ids", "top_logprobs"])
def test_the_server_judges_as_the_local_judge(
    server: VllmServer,
    local: LocalJudge,
    prompts: PromptSet,
    questions: list[Question],
    letters: str,
) -> None:
    judge = ServerJudge.from_folder(JUDGE, prompts, settings(server), letters=letters)  # type: ignore[arg-type]
    judge.check()
    spread = []
    for found, expected in zip(judge.judge(questions), local.judge(questions), strict=True):
        assert found is not None
        assert expected is not None
        assert found.probability_a == pytest.approx(expected.probability_a, abs=2e-3)
        assert found.label_mass == pytest.approx(expected.label_mass, abs=2e-3)
        spread.append(expected.probability_a)
    assert min(spread) < 0.1 < 0.9 < max(spread)
    taken = judge.take_measurements()
    assert (taken.unanswered, taken.retries, taken.questions) == ({}, 0, len(questions))


def test_the_server_scores_responses_as_the_local_model(
    server: VllmServer, local: LocalJudge, prompts: PromptSet, questions: list[Question]
) -> None:
    rows = [Continuation(q.post, q.description, q.response_a) for q in questions]
    generator = ServerGenerator.from_folder(JUDGE, prompts, settings(server, concurrency=4))
    generator.check()
    found = generator.log_probabilities(rows)
    expected = response_log_probabilities(local.model, local.tokenizer, prompts, rows, 16)
    for scores, total in zip(found, expected, strict=True):
        assert scores is not None
        assert sum(scores) == pytest.approx(total, abs=2e-3)


def test_what_exceeds_the_context_is_not_answered_and_the_rest_is(
    server: VllmServer, prompts: PromptSet, questions: list[Question]
) -> None:
    judge = ServerJudge.from_folder(JUDGE, prompts, settings(server))
    endless = Question("why " * 3000, "prefers brief", "yes", "no")
    first, second = judge.judge([endless, questions[0]])
    assert first is None
    assert second is not None
    assert judge.take_measurements().unanswered == {"too_long": 1}
    generator = ServerGenerator.from_folder(JUDGE, prompts, settings(server))
    assert generator.log_probabilities([Continuation("why " * 3000, None, "no")]) == [None]
    assert generator.take_measurements().unanswered == {"too_long": 1}


def test_a_model_that_is_not_served_is_said_with_those_that_are(
    server: VllmServer, prompts: PromptSet
) -> None:
    other = replace(settings(server), model="juge")
    with pytest.raises(UserError, match=r"status 404 .*it serves judge") as error_info:
        ServerJudge.from_folder(JUDGE, prompts, other).check()
    assert server.url in str(error_info.value)


def test_a_server_killed_in_the_middle_leaves_reasons_and_answers_when_it_is_back(
    server: VllmServer, local: LocalJudge, prompts: PromptSet, questions: list[Question]
) -> None:
    """The last test of the server: it leaves another one in its place."""
    many = [replace(q, post=f"{q.post} {i}") for i in range(20) for q in questions]
    judge = ServerJudge.from_folder(JUDGE, prompts, settings(server, deadline=60.0))

    def kill_after_some_answers() -> None:
        while len(judge._measurements.latencies) < 50:
            time.sleep(0.01)
        os.killpg(server.process.pid, signal.SIGKILL)

    kill = threading.Thread(target=kill_after_some_answers)
    kill.start()
    started = time.monotonic()
    verdicts = judge.judge(many)
    assert time.monotonic() - started < 60.0 + 5.0
    kill.join()
    server.stop()
    taken = judge.take_measurements()
    answered = sum(verdict is not None for verdict in verdicts)
    assert 0 < answered < len(many)
    assert set(taken.unanswered) <= {"connection", "timeout", "deadline"}
    assert answered + sum(taken.unanswered.values()) == len(many)
    with VllmServer(server.serve, 0, server.folder) as again:
        again.wait_until_healthy()
        verdicts = judge.judge(questions)
    for found, expected in zip(verdicts, local.judge(questions), strict=True):
        assert found is not None
        assert expected is not None
        assert found.probability_a == pytest.approx(expected.probability_a, abs=2e-3)


def test_nothing_is_left_of_a_server_whose_recipe_was_killed(serve: Serve, tmp_path: Path) -> None:
    recipe = subprocess.Popen(
        [
            sys.executable, "recipes/serve_judge.py", f"serve.port={serve.port}",
            f"serve.python={serve.python}", f"paths.outputs={tmp_path}", "run_name=x",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert recipe.stderr is not None
    said = ""
    while "JUDGE=server" not in said:
        line = recipe.stderr.readline()
        assert line, said
        said += line
    group = json.loads((tmp_path / "serve_judge" / "x" / "server.json").read_text())["process"]
    assert len(members(group)) > 1
    recipe.kill()
    recipe.wait()
    give_up = time.monotonic() + 60
    while members(group) and time.monotonic() < give_up:
        time.sleep(0.5)
    assert members(group) == []


def members(group: int) -> list[str]:
    """The commands of a process group's living members."""
    table = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    return [args for pgid, state, args in rows if pgid == str(group) and "Z" not in state]

"""The server judge and generator against real vLLM on the CPU, and against the local ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from alignxplore_trl.data.world import World
from alignxplore_trl.judging.client import ServerSettings
from alignxplore_trl.judging.generator import Continuation, LocalGenerator
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.sampled import SampledJudge
from alignxplore_trl.judging.server import ServerAnswerWriter, ServerGenerator, ServerJudge
from alignxplore_trl.launch.config import Serve
from alignxplore_trl.launch.serving import VllmServer
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import PromptSet, Question
from tests.vllm_on_cpu import served_on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
JUDGE = ROOT / "assets" / "judge"
DESCRIPTIONS = ("prefers brief", "prefers warm, playful", None)


@pytest.fixture(scope="module")
def serve() -> Serve:
    return served_on_cpu(JUDGE)


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
    judge = ServerJudge(
        AutoTokenizer.from_pretrained(JUDGE), prompts, settings(server), letters=letters
    )  # type: ignore[arg-type]
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
    server: VllmServer, prompts: PromptSet, questions: list[Question]
) -> None:
    rows = [Continuation(q.post, q.description, q.response_a) for q in questions]
    generator = ServerGenerator(
        AutoTokenizer.from_pretrained(JUDGE), prompts, settings(server, concurrency=4)
    )
    generator.check()
    found = generator.log_probabilities(rows)
    local = LocalGenerator.from_folder(JUDGE, prompts, dtype="float32", max_batch_tokens=8192)
    for scores, expected in zip(found, local.log_probabilities(rows), strict=True):
        assert scores is not None
        assert expected is not None
        assert scores == pytest.approx(expected, abs=2e-3)


def test_the_server_writes_answers_as_probable_as_the_local_judge_finds_them(
    server: VllmServer, local: LocalJudge, prompts: PromptSet, questions: list[Question]
) -> None:
    """The small judge writes the letter alone: A as often as it finds A probable."""
    writer = ServerAnswerWriter(
        settings(server), max_new_tokens=1, temperature=1.0,
        answer_start='{"selection": "Response', answer_end='"}',
    )  # fmt: skip
    writer.check(samples=64)
    judge = SampledJudge(writer, prompts, samples=64)
    for found, expected in zip(judge.judge(questions), local.judge(questions), strict=True):
        assert found is not None
        assert expected is not None
        deviation = (expected.probability_a * (1 - expected.probability_a) / 64) ** 0.5
        assert abs(found.probability_a - expected.probability_a) < 5 * deviation + 0.02


def test_what_exceeds_the_context_is_not_answered_and_the_rest_is(
    server: VllmServer, prompts: PromptSet, questions: list[Question]
) -> None:
    judge = ServerJudge(AutoTokenizer.from_pretrained(JUDGE), prompts, settings(server))
    endless = Question("why " * 3000, "prefers brief", "yes", "no")
    first, second = judge.judge([endless, questions[0]])
    assert first is None
    assert second is not None
    assert judge.take_measurements().unanswered == {"too_long": 1}
    generator = ServerGenerator(AutoTokenizer.from_pretrained(JUDGE), prompts, settings(server))
    assert generator.log_probabilities([Continuation("why " * 3000, None, "no")]) == [None]
    assert generator.take_measurements().unanswered == {"too_long": 1}


def test_a_model_that_is_not_served_is_said_with_those_that_are(
    server: VllmServer, prompts: PromptSet
) -> None:
    other = replace(settings(server), model="juge")
    with pytest.raises(UserError, match=r"status 404 .*it serves judge") as error_info:
        ServerJudge(AutoTokenizer.from_pretrained(JUDGE), prompts, other).check()
    assert server.url in str(error_info.value)


def test_a_server_killed_in_the_middle_leaves_reasons_and_answers_when_it_is_back(
    server: VllmServer, local: LocalJudge, prompts: PromptSet, questions: list[Question]
) -> None:
    """The last test of the server: it leaves another one in its place."""
    many = [replace(q, post=f"{q.post} {i}") for i in range(20) for q in questions]
    judge = ServerJudge(
        AutoTokenizer.from_pretrained(JUDGE), prompts, settings(server, deadline=60.0)
    )

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

"""The synthesis from the command line: what it writes, what it pays for twice, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.judging.fault_server import Body, FaultServer, Reply, refusal
from tests.synthesis.teaching import choice

ROOT = Path(__file__).parents[2]
DATA = ("data.counts={cold_start: 6, rl: 8, validation: 2, test: 2}", "setting=streaming",
        "tracking=none")  # fmt: skip
FEW = (*DATA, "judge.minimum_label_mass=0.0", "model.max_completion_tokens=24",
       "upstream.prepare=x")  # fmt: skip
DESCRIPTIONS = ("prefers brief", "prefers detailed", "prefers warm", "prefers plain")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    run("prepare", folder, *DATA, "run_name=x")
    return folder


@pytest.fixture
def outputs(prepared: Path, tmp_path: Path) -> Path:
    """A folder of its own, with nothing but prepared data."""
    shutil.copytree(prepared, tmp_path / "outputs")
    return tmp_path / "outputs"


def summary(outputs: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((outputs / "synthesize" / name / "summary.json").read_text()))


def table(outputs: Path, name: str, file: str) -> pd.DataFrame:
    return pd.read_parquet(outputs / "synthesize" / name / file)


def described(body: Body, attempt: int) -> Reply:
    """Another description each time that a prompt is sent."""
    description = DESCRIPTIONS[attempt % len(DESCRIPTIONS)]
    return choice(f" r </think> <answer> {description} {attempt} </answer>")


def served(url: str) -> tuple[str, ...]:
    return ("teacher=server", f"teacher.server.urls=[{url}]", "teacher.server.concurrency=4")


def sent_of(server: FaultServer) -> Counter[str]:
    """How often each prompt was received, but for those that try whether the server is there."""
    prompts = (each.body["prompt"] for each in server.received)
    return Counter(prompt for prompt in prompts if not prompt.startswith("Say hello"))


def test_what_was_written_and_judged_serves_every_later_selection(
    outputs: Path, run: Callable[..., None]
) -> None:
    limited = (*FEW, "synthesis.limit=3")
    run("synthesize", outputs, *limited, "run_name=first")
    first = summary(outputs, "first")
    assert (first["cases"], first["asked"], first["cached"]) == (3, 3 * 2 * 4, 0)
    assert first["examples"] == first["round_1/kept"] + first["round_2/kept"]
    run("synthesize", outputs, *limited, "run_name=second", "synthesis.keep=shortest",
        "synthesis.keep_per_prompt=1")  # fmt: skip
    second = summary(outputs, "second")
    assert (second["asked"], second["cached"]) == (0, 24)
    assert 0 < second["examples"] < first["examples"]
    one, other = (
        table(outputs, name, "completions/candidates.parquet").drop(columns="kept")
        for name in ("first", "second")
    )
    pd.testing.assert_frame_equal(one, other)
    examples, unverified = (
        table(outputs, "first", f"{name}.parquet") for name in ("examples", "unverified")
    )
    assert list(examples) == [
        "prompt",
        "completion",
        "case_id",
        "round",
        "number",
        "earlier",
        "earlier_number",
        "earlier_from",
    ]
    assert list(unverified) == list(examples)
    assert Counter(unverified["round"]) == Counter(examples["round"])
    assert (outputs / "synthesize" / "first" / "card.md").is_file()
    # Everything but what verifies is there already.
    run("synthesize", outputs, *limited, "run_name=generated", "verification=generated")
    generated = summary(outputs, "generated")
    assert generated["asked"] <= 12  # Descriptions of the second round may be others.
    assert set(table(outputs, "generated", "examples.parquet")) == set(examples)


def test_a_teacher_behind_a_server_writes_both_rounds(
    outputs: Path, run: Callable[..., None]
) -> None:
    with FaultServer(described) as server:
        run("synthesize", outputs, *FEW, *served(server.url), "run_name=served",
            "teacher.prices={prompt: 1, completion: 2}")  # fmt: skip
        sent = sent_of(server)
        assert server.peak <= 4
        run("synthesize", outputs, *FEW, *served(server.url), "run_name=again",
            "synthesis.keep=highest_margin", "synthesis.keep_per_prompt=1")  # fmt: skip
        assert sent_of(server) == sent
    found = summary(outputs, "served")
    assert set(sent.values()) == {4}
    assert found["asked"] == sum(sent.values()) == 6 * 2 * 4
    assert (found["prompt_tokens"], found["completion_tokens"]) == (48 * 11, 48 * 7)
    assert found["cost"] == pytest.approx(48 * (11 + 2 * 7) / 1e6)
    candidates = table(outputs, "served", "completions/candidates.parquet")
    assert set(candidates["outcome"]) == {"well_formed"}
    second = candidates[candidates["round"] == 2]
    assert set(second["earlier_from"]) == {"well_formed"}
    for row in second.to_dict("records"):
        [source] = candidates[
            (candidates["case_id"] == row["case_id"])
            & (candidates["round"] == 1)
            & (candidates["number"] == row["earlier_number"])
        ]["completion"]
        assert f"<answer> {row['earlier']} </answer>" in source
        assert row["earlier"] in row["prompt"]
    assert summary(outputs, "again")["asked"] == 0


def test_a_budget_ends_the_run_with_what_there_is(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultServer(described) as server:
        run("synthesize", outputs, *FEW, *served(server.url), "run_name=budget",
            "teacher.prices={prompt: 0, completion: 1000000}", "synthesis.budget=210")  # fmt: skip
        assert sum(sent_of(server).values()) < 48
    found = summary(outputs, "budget")
    assert found["cost"] <= 210
    assert found["not_asked"] > 0
    assert "synthesis.budget=210" in capsys.readouterr().err


def test_a_run_that_is_killed_goes_on_from_what_was_answered(
    outputs: Path, run: Callable[..., None], assets: Path
) -> None:
    def slowly(body: Body, attempt: int) -> Reply:
        return replace(described(body, attempt), delay=0.15)

    given = [*FEW, "run_name=killed"]
    with FaultServer(slowly) as server:
        command = [sys.executable, "recipes/synthesize.py", f"paths.assets={assets}",
                   f"paths.outputs={outputs}", *given, *served(server.url)]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = (outputs / "log").open("w+")
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        give_up = time.monotonic() + 120
        while sum(sent_of(server).values()) < 30:
            assert process.poll() is None, (outputs / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        before = sum(sent_of(server).values())
        assert 30 <= before < 48
        server.plan = described
        run("synthesize", outputs, *given, *served(server.url))
        sent = sent_of(server)
    found = summary(outputs, "killed")
    # None is received twice but those that were under way.
    assert found["cached"] >= before - 4
    assert sum(sent.values()) <= 48 + 4
    assert found["asked"] + found["cached"] == 48
    candidates = table(outputs, "killed", "completions/candidates.parquet")
    assert len(candidates.groupby(["case_id", "round", "number"])) == len(candidates) == 48
    assert set(candidates["outcome"]) == {"well_formed"}


def test_a_teacher_that_refuses_everything_ends_with_what_was_found(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(body: Body, attempt: int) -> Reply:
        return choice("hello") if body["prompt"].startswith("Say hello") else refusal(400)

    with FaultServer(refuses) as server, pytest.raises(SystemExit) as exit_info:
        run("synthesize", outputs, *FEW, *served(server.url), "run_name=refused",
            "synthesis.candidates=16")  # fmt: skip
    assert exit_info.value.code == 2
    assert "teacher: no answer to 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["synthesis.budget=1"], "synthesis.budget: 1 found"),
        (["teacher.prices.prompt=1"], "teacher.prices: prompt=1"),
        (["synthesis.mix=[1]"], "synthesis.mix: [1.0] found, expected 2 numbers"),
        (["synthesis.mix=[0,0]"], "synthesis.mix: [0.0, 0.0] found"),
        (["synthesis.budget=0"], "synthesis.budget: 0.0 found"),
        (["teacher.temperature=0"], "teacher.temperature: 0 found"),
        (
            ["teacher=server", "synthesis.budget=1", "+teacher.body.max_tokens=null"],
            "any number of tokens, expected teacher.max_new_tokens, 24",
        ),
        (["teacher.top_p=2"], "teacher.top_p: 2.0 found"),
        (["teacher.top_k=0"], "teacher.top_k: 0 found"),
        (["verification.score=probability"], "verification.score: probability found"),
        (["verification.shaping.length_weight=0.1"], "verification.shaping"),
        (["teacher=server", "teacher.server.urls=[nowhere]"], "teacher.server.urls[0]"),
        (["teacher=server", "teacher.server.urls=[]"], "teacher.server.urls: found none"),
        (["synthesis.candidates=0"], "synthesis.candidates: 0 found"),
        (["synthesis.keep=longest"], "synthesis.keep"),
        (["synthesis.limit=0"], "synthesis.limit: 0 found"),
    ],
)
def test_what_can_not_work_is_refused_at_once(
    outputs: Path,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    named: str,
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run("synthesize", outputs, *FEW, *overrides, "run_name=refused")
    assert exit_info.value.code == 2
    assert named in capsys.readouterr().err
    assert not (outputs / "synthesize" / "refused" / "summary.json").exists()

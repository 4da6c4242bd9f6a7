"""RL on two processes while its judge, real vLLM, is killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.launch.serving import VllmServer
from alignxplore_trl.run.folder import is_finished
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.training.checkpoints import last_complete_checkpoint
from tests.vllm_on_cpu import served_on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
STEPS = 30
DATA = (
    "data.counts={cold_start: 10, rl: 48, validation: 4, test: 6}",
    "setting=streaming",
    "tracking=none",
)
COMMON = (*DATA, "model.max_completion_tokens=24")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., None]) -> Path:
    """The stages before RL, judged in the process."""
    folder = tmp_path_factory.mktemp("outputs")
    few = [*COMMON, "judge.minimum_label_mass=0.0", "run_name=x"]
    run("prepare", folder, *DATA, "run_name=x")
    run("synthesize", folder, *few, "upstream.prepare=x")
    run("cold_start", folder, *few, "upstream.synthesize=x",
        "trainer.num_train_epochs=1")  # fmt: skip
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VllmServer]:
    with VllmServer(served_on_cpu(ROOT / "assets" / "judge"), 0, tmp_path) as server:
        server.wait_until_healthy()
        yield server


def start_rl(
    outputs: Path, assets: Path, url: str, name: str, *overrides: str
) -> subprocess.Popen[str]:
    command = [
        str(Path(sys.executable).with_name("accelerate")), "launch",
        "--config_file=conf/launch/accelerate/cpu2.yaml", "recipes/rl.py",
        f"paths.assets={assets}", f"paths.outputs={outputs}", *COMMON,
        "upstream.prepare=x", "upstream.cold_start=x", f"run_name={name}", "launch=cpu2",
        "trainer.per_device_train_batch_size=8", f"trainer.max_steps={STEPS}",
        "trainer.save_steps=2", "judge=server", f"judge.model={ROOT / 'assets' / 'judge'}",
        f"judge.server.urls=[{url}]", "judge.server.served_as=judge", "judge.server.deadline=15",
        "judge.server.request_timeout=10", *overrides,
    ]  # fmt: skip
    log = (outputs / f"{name}.log").open("a")
    return subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def steps_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    return [row["step"] for row in read_metrics(path) if "reward" in row] if path.exists() else []


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    give_up = time.monotonic() + 300
    while not what():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < give_up, log.read_text()[-3000:]
        time.sleep(0.2)


def kill(server: VllmServer) -> None:
    os.killpg(server.process.pid, signal.SIGKILL)
    server.stop()


def end_of(process: subprocess.Popen[str], log: Path) -> int:
    try:
        return process.wait(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"a process hangs: {log.read_text()[-3000:]}")


def check_finished(folder: Path, log: Path) -> None:
    """Every step was made once, on a batch that was judged; and no user's text was logged."""
    assert is_finished(folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["completions/unscored"] <= 0.2 for row in rows)
    said = log.read_text()
    targets = [case.target for case in World(seed=0).cases("rl", 48)]
    assert not [target.chosen for target in targets if target.chosen in said]


def test_a_run_that_waits_goes_on_when_its_judge_is_back(
    outputs: Path, assets: Path, server: VllmServer
) -> None:
    folder, log = outputs / "rl" / "waits", outputs / "waits.log"
    wait = ["reward.outage.action=wait", "reward.outage.pause_seconds=2"]
    process = start_rl(outputs, assets, server.url, "waits", *wait)
    wait_for(lambda: len(steps_of(folder)) >= 5, process, log)
    kill(server)
    wait_for(lambda: "asking again in 2 s" in log.read_text(), process, log)
    before = len(steps_of(folder))
    assert before < STEPS
    with VllmServer(server.serve, 0, server.folder) as again:
        again.wait_until_healthy()
        assert end_of(process, log) == 0, log.read_text()[-3000:]
    check_finished(folder, log)


def test_a_run_that_aborts_ends_on_both_processes_and_the_same_command_resumes(
    outputs: Path, assets: Path, server: VllmServer
) -> None:
    folder, log = outputs / "rl" / "aborts", outputs / "aborts.log"
    process = start_rl(outputs, assets, server.url, "aborts")
    wait_for(lambda: len(steps_of(folder)) >= 5, process, log)
    kill(server)
    assert end_of(process, log) != 0
    assert log.read_text().count("this batch was not trained on") == 1
    checkpoint = last_complete_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert int(checkpoint.name.split("-")[1]) <= len(steps_of(folder)) < STEPS
    with VllmServer(server.serve, 0, server.folder) as again:
        again.wait_until_healthy()
        process = start_rl(outputs, assets, server.url, "aborts")
        assert end_of(process, log) == 0, log.read_text()[-3000:]
    assert "resuming" in log.read_text()
    check_finished(folder, log)

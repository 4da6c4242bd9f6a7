"""A training that is killed again and again, and started by the same command each time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from alignxplore_trl.run.folder import is_finished
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.training.checkpoints import last_complete_checkpoint

ROOT = Path(__file__).parents[2]
# More than five kills let it take.
STEPS = 40
OVERRIDES = (
    "launch=cpu2",
    "setting=streaming",
    "start=backbone",
    "data.counts={cold_start: 1, rl: 24, validation: 1, test: 1}",
    "judge.minimum_label_mass=0.0",
    "preflight.skip=[judge]",
    "model.max_completion_tokens=24",
    f"trainer.max_steps={STEPS}",
    "trainer.save_steps=3",
    "trainer.per_device_train_batch_size=8",
    "completions_every=1",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def start(assets: Path) -> Callable[[Path], subprocess.Popen[bytes]]:
    """Start the training on two processes, as make does, in a process group of its own."""

    def start_in(outputs: Path) -> subprocess.Popen[bytes]:
        launch = ["-m", "accelerate.commands.launch", "--quiet",
                  "--config_file", "conf/launch/accelerate/cpu2.yaml"]  # fmt: skip
        paths = [f"paths.assets={assets}", f"paths.outputs={outputs}"]
        return subprocess.Popen(
            [sys.executable, *launch, "recipes/rl.py", *OVERRIDES, "run_name=run", *paths],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            # As slurm/launch.sh does it: the launcher inherits that, the training doesn't.
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )

    return start_in


def wait_for_steps(training: subprocess.Popen[bytes], folder: Path, more: int) -> None:
    """Return when so many more steps than now are logged, or the training has ended."""
    first = len(read_metrics(folder / "metrics.jsonl"))
    while training.poll() is None and len(read_metrics(folder / "metrics.jsonl")) < first + more:
        time.sleep(0.02)


def send_to_all(training: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    """As a scheduler does it: to the launcher, and to all that it has started."""
    launcher = psutil.Process(training.pid)
    for process in (launcher, *launcher.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sign)


def test_kills_leave_no_trace(
    tmp_path: Path,
    run: Callable[..., None],
    start: Callable[[Path], subprocess.Popen[bytes]],
) -> None:
    draw = random.Random(4)
    for name in ("whole", "killed"):
        run("prepare", tmp_path / name, "--for", "rl", *OVERRIDES)
    assert start(tmp_path / "whole").wait() == 0
    whole, killed = (tmp_path / name / "rl" / "run" for name in ("whole", "killed"))

    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
    for sign in signals:
        training = start(tmp_path / "killed")
        wait_for_steps(training, killed, more=draw.randint(1, 4))
        time.sleep(draw.uniform(0, 0.2))
        if sign == signal.SIGTERM:
            training.send_signal(sign)  # torchrun passes it on.
        else:
            send_to_all(training, sign)
        assert training.wait(timeout=60) != 0
        assert not is_finished(killed)
        if sign != signal.SIGKILL:
            last = last_complete_checkpoint(killed / "checkpoints")
            steps = [row["step"] for row in read_metrics(killed / "metrics.jsonl")]
            assert last is not None
            assert last.name == f"checkpoint-{steps[-1]}", "the last step that was taken is saved"
    assert start(tmp_path / "killed").wait() == 0

    weights = "model/model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    for file in sorted((whole / "completions").iterdir()):
        assert (killed / "completions" / file.name).read_bytes() == file.read_bytes()
    rewards = [
        [(row["step"], row["reward"]) for row in read_metrics(folder / "metrics.jsonl")
         if "reward" in row]
        for folder in (whole, killed)
    ]  # fmt: skip
    assert rewards[0] == rewards[1]
    assert [step for step, _ in rewards[1]] == list(range(1, STEPS + 1))
    # One run in W&B, in as many parts as there were starts.
    parts = [path.name for path in (killed / "wandb").glob("offline-run-*")]
    assert len(parts) > len(signals) / 2
    assert len({name.rpartition("-")[2] for name in parts}) == 1

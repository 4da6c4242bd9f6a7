"""slurm/: what the job script starts where, and what it does when its time is up."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.commands import ROOT, SMALL

SCRIPT = ROOT / "slurm" / "train.sbatch"
ON_CPU = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
# In the place of SLURM, of make and of the judge's server: each notes how it was called.
STAND_INS = {
    "scontrol": '[[ $1 != show ]] || printf "%s\\n" $NODES',
    "srun": """[[ ! -e $RECORD.broken ]] || exit 1
trap 'echo "${*: -1} told" >> "$RECORD"; exit 143' TERM
trap 'echo "${*: -1} told" >> "$RECORD"; exit 138' USR1
[[ $* == *serve-judge* ]] || echo $$ > "$RECORD.training"
while :; do /bin/sleep 0.02; done""",
    "curl": '[[ $(grep -c "^curl" "$RECORD") -gt 2 ]]',
    "make": """echo "machines: $MACHINES $MAIN_ADDRESS $MAIN_PORT" >> "$RECORD"
for word in "$@"; do [[ $word != SRUN=* ]] || start=${word#SRUN=}; done
[[ ! -e $RECORD.long ]] || $start trainers""",
    "sleep": "/bin/sleep 0.02",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in STAND_INS.items():
        file = folder / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> "$RECORD"\n{script}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "NODES": "n1 n2 n3",
        "SLURM_JOB_ID": "4321",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64",
    }


def submit(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=60
    )


def record(environment: dict[str, str]) -> list[str]:
    return Path(environment["RECORD"]).read_text().splitlines()


def test_the_last_node_judges_and_the_others_train(slurm: dict[str, str]) -> None:
    done = submit(slurm, "rl", "SCALE=paper_7b", "DATA_PATH=rows.jsonl", "ARGS=rl.beta=0.1")
    assert done.returncode == 0, done.stderr
    told = record(slurm)
    assert told[0] == "scontrol show hostnames n[1-3]"
    judge = "srun --nodes=1 --ntasks=1 --nodelist=n3 make serve-judge SCALE=paper_7b "
    assert f"{judge}ARGS=--host 0.0.0.0 --port 8321 " in told
    asked = [number for number, line in enumerate(told) if line.startswith("curl")]
    assert len(asked) == 3
    assert told[asked[0]].endswith("http://n3:8321/health")
    (make,) = [number for number, line in enumerate(told) if line.startswith("make")]
    assert make > asked[-1]
    assert told[make] == (
        "make rl SCALE=paper_7b DATA_PATH=rows.jsonl GPUS=16 JUDGE=server "
        "SRUN=srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1,n2 "
        "--kill-on-bad-exit=1 slurm/launch.sh ARGS=judge.urls=[http://n3:8321/v1] rl.beta=0.1"
    )
    assert "machines: 2 n1 29821" in told
    assert told[-1].endswith("--port 8321  told")
    assert "scontrol requeue 4321" not in told


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_trainers_save_and_only_a_job_out_of_time_queues_itself(
    slurm: dict[str, str], sent: signal.Signals
) -> None:
    """A cancelled job gets SIGTERM, and its trainers too, and stays cancelled."""
    Path(f"{slurm['RECORD']}.long").touch()
    training = Path(f"{slurm['RECORD']}.training")
    with subprocess.Popen(["bash", str(SCRIPT), "rl"], env=slurm) as job:
        while not (training.exists() and training.read_text()):
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(sent)
        if sent is signal.SIGTERM:
            os.kill(int(training.read_text()), sent)
        # The trainers' own status, by which they say that they were told to stop.
        assert job.wait(timeout=60) == 128 + sent
    told = record(slurm)
    assert told.count("trainers told") == 1
    assert ("scontrol requeue 4321" in told) == (sent is signal.SIGUSR1)
    assert told[-1].endswith("--port 8321  told")


@pytest.mark.parametrize(
    ("words", "nodes", "message"),
    [
        ("", "n1", "'' found, expected rl or cold-start"),
        ("rl JUDGE=local", "n1", "JUDGE=local found; the script sets it"),
        ("rl fast", "n1", "fast found, expected variables of make"),
        ("rl", "n1", "found 1 node, expected one or more for the training and one for the judge"),
        ("rl", "n1 n2", "the judge on n2 ended before it answered"),
    ],
)
def test_what_it_cannot_do_is_refused(
    slurm: dict[str, str], words: str, nodes: str, message: str
) -> None:
    Path(f"{slurm['RECORD']}.broken").touch()
    done = submit({**slurm, "NODES": nodes}, *words.split())
    assert done.returncode == 2
    assert message in done.stderr
    if nodes == "n1 n2":
        assert not [line for line in record(slurm) if line.startswith("make")]


@pytest.mark.slow
def test_two_machines_train_one_model(tmp_path: Path) -> None:
    """Both are this one, on the CPU, and each starts its process by itself."""
    few = [f'paths.outputs="{tmp_path}"', "rl.start=backbone", "run=two", *SMALL]
    machines = {"MACHINES": "2", "MAIN_ADDRESS": "127.0.0.1", "MAIN_PORT": "29877"}
    launch = ["--quiet", "--config_file=conf/accelerate/cpu.yaml", "--multi_gpu"]

    def both(*words: str) -> list[tuple[int, str]]:
        command = ["slurm/launch.sh", *launch, "--num_processes=2", "recipes/rl.py", *few, *words]
        own = {**os.environ, **machines, **ON_CPU}
        how: dict[str, Any] = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
        both = [{**own, "SLURM_PROCID": rank} for rank in ("0", "1")]
        parts = [subprocess.Popen(command, env=one, **how) for one in both]
        told = [part.communicate()[1] for part in parts]
        return [(part.returncode, said) for part, said in zip(parts, told, strict=True)]

    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run([python, "recipes/prepare.py", *few], cwd=ROOT, check=True)
    (status, first), (other, second) = both()
    assert (status, other) == (0, 0), (first + second)[-4000:]
    assert (tmp_path / "two" / "rl" / "model" / "model.safetensors").is_file()
    # One of the two says it.
    assert "step 2 of 2" in first
    assert "step 2 of 2" not in second
    # The first decides what becomes of the folder, and tells the other.
    (status, first), (other, second) = both()
    assert (status, other) == (0, 0), (first + second)[-4000:]
    assert "is finished; nothing to do" in first
    assert "is finished" not in second
    (status, first), (other, second) = both("rl.beta=0.1")
    assert status != 0
    assert other != 0
    assert "rl.beta: 0.0 there, 0.1 asked" in first
    assert "there, 0.1 asked" not in second

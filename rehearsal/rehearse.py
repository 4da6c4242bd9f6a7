"""The commands of docs/scaling.md for one scale, one after the other, on a machine without GPUs.

    python rehearsal/rehearse.py paper_7b [--short] [--again]

They are read from the document, and run as they stand there but for names of models (stand-ins, see
stand_ins.py), sizes, steps and numbers of processes. RL is killed after its first checkpoint, and
goes on by the same command. What ran for how long is printed, and kept with all logs in
outputs/rehearsal/<scale>.

    --short   no kill, and fewer methods are evaluated
    --again   goes on where an earlier rehearsal ended
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rows import alignx_rows

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/scaling.md"
PYTHON = str(ROOT / ".venv-vllm/bin/python")
ROLES = ("backbone", "teacher", "judge", "test_judge")
_PAPER = ("deepseek-r1-distill-qwen-7b", "qwq-32b", "qwen2.5-7b-instruct", "qwq-32b")
_SMALL = ("qwen2.5-7b-instruct", "qwen3-4b-instruct-2507") * 2
# Of each scale its section of the document, and what stands in for its models.
SCALES = {
    "one_gpu": ("One GPU", _SMALL),
    "paper_7b": ("Eight GPUs", _PAPER),
    "paper_7b_split": ("Eight GPUs with roles", _PAPER),
}
REPLACED = [
    # FlashAttention needs a GPU. Completions are as long as those of the stand-ins.
    "model.attn_implementation=sdpa", "model.max_completion_tokens=48", "model.reply_tokens=16",
    "model.generation_batch_size=8", "synthesis.candidates=2", "synthesis.cases=12",
    "cold_start.max_steps=2", "cold_start.gradient_accumulation_steps=2",
    "rl.max_steps=4", "rl.per_device_train_batch_size=8", "rl.gradient_accumulation_steps=2",
    "rl.steps_per_generation=2", "rl.save_steps=2", "rl.warmup_steps=1",
    # vLLM doesn't sleep on a CPU.
    "rl.vllm_enable_sleep_mode=false",
    "+evaluation.writer.engine.enforce_eager=true",
    "evaluation.cases=4", "evaluation.win_rate.cases=4",
    "data.sizes.cold_start=24", "data.sizes.rl=24", "data.sizes.validation=4", "data.sizes.test=24",
]  # fmt: skip
SHORT = ["method=[rl]", "evaluation.win_rate.pairs=[]"]
PORTS = {"serve-judge": "8000", "serve-teacher": "8002", "serve-rollouts": "8004"}
Process = subprocess.Popen[bytes]


def commands(heading: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of a section's blocks, and their words; an assigned variable is for later lines."""
    text = DOCUMENT.read_text("utf-8").split(f"\n## {heading}\n")[1]
    known: dict[str, str] = {}
    for block in re.findall(r"^```sh\n(.*?)^```", text.split("\n## ")[0], flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in known.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            assigned = {}
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0], flags=re.S):
                name, _, value = words.pop(0).partition("=")
                assigned[name] = value  # Or of the command's environment: the cards it may use.
            known |= {} if words else assigned
            if words:
                yield " ".join(line.split()), words


class Rehearsal:
    """One scale's commands, and what they need."""

    def __init__(self, scale: str, short: bool, again: bool) -> None:
        self.scale, self.short = scale, short
        self.folder = ROOT / "outputs/rehearsal" / scale
        if not again:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        families = zip(ROLES, SCALES[scale][1], strict=True)
        self.models = {role: str(self.folder / "models" / family) for role, family in families}
        # paper_7b_split names no models of its own.
        config = _read("conf/scale/paper_7b.yaml") | _read(f"conf/scale/{scale}.yaml")
        self.names = {"outputs/": f"outputs/rehearsal/{scale}/", "judge-node": "127.0.0.1"}
        self.names |= {config["model"][role]: folder for role, folder in self.models.items()}
        launch = _read("conf/accelerate/zero3.yaml") | {"use_cpu": True}
        (self.folder / "zero3.yaml").write_text(yaml.safe_dump(launch))
        paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'rehearsal/without_gpu'}"
        self.environment = os.environ | {
            "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(ROOT / ".venv-vllm/extensions"),
        }  # fmt: skip
        self.servers: list[Process] = []
        self.waiting: list[tuple[Process, list[str]]] = []
        self.rows: list[str] = []

    def run(self) -> None:
        """Make the stand-ins and the data, and run each command; the first that fails ends it."""
        for folder in {*self.models.values()}:
            if not Path(folder, "tokenizer.json").exists():
                made = [PYTHON, "rehearsal/stand_ins.py", Path(folder).name, folder]
                subprocess.run(made, cwd=ROOT, env=self.environment, check=True)
        words = (ROOT / "LICENSE").read_text("utf-8").split()
        for pairs in (4, 8):
            rows = [json.dumps(row) + "\n" for row in alignx_rows(600, pairs, words, seed=pairs)]
            (self.folder / f"alignx{pairs}.jsonl").write_text("".join(rows))
        signal_row = json.dumps({"post": "a", "chosen": "b", "rejected": "c"}) + "\n"
        (self.folder / "signals.jsonl").write_text(signal_row * 4)
        try:
            for line, command in commands(SCALES[self.scale][0]):
                if command[1] != "install-gpu":
                    self._step(line, command[1], self._replaced(*command[1:]))
        finally:
            for server in self.servers:
                os.killpg(server.pid, signal.SIGKILL)
            (self.folder / "summary.txt").write_text("".join(self.rows))

    def _step(self, line: str, target: str, words: list[str]) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        started = time.monotonic()
        log = self.folder / f"{len(self.rows):02}-{target}.log"
        if target.startswith("serve-"):
            self.servers.append(self._start(words, log))
            self.waiting.append((self.servers[-1], words))
            ended = True
        else:
            ended = all(self._ready(*each) for each in self.waiting)
            self.waiting = []
        if ended and not target.startswith("serve-"):
            if target.startswith("rl") and not self.short:
                self._kill_after_a_checkpoint(words, log.with_suffix(".killed.log"))
            ended = self._start(words, log).wait() == 0
        if target == "preflight":
            # A judge that answers by chance is found out; nothing else may be wrong.
            ended = re.findall(r"^FAIL  (.*?):", log.read_text("utf-8"), flags=re.M) == ["judge"]
        elif target == "describe" and not ended:
            # Stand-ins leave the format half of the time, and are told so.
            ended = "the completion can't be read" in log.read_text("utf-8")
        self.rows.append(f"{time.monotonic() - started:7.0f} s  {line}\n")
        sys.stdout.write(self.rows[-1][:9] + ("\n" if ended else "  failed\n"))
        if not ended:
            tail = log.read_text("utf-8", "replace")[-4000:]
            raise SystemExit(f"{tail}\nrehearse: failed: {shlex.join(words)}\n{log}")

    def _replaced(self, target: str, *words: str) -> list[str]:
        """A make command with all that is replaced in it."""
        given = dict(word.partition("=")[::2] for word in words)
        for name, other in self.names.items():
            given = {key: value.replace(name, other) for key, value in given.items()}
        if target.startswith("serve-"):
            role = target.removeprefix("serve-").replace("rollouts", "backbone")
            given = {"MODEL": self.models[role]} | given
            given["ARGS"] = re.sub(r"--(tensor|data)-parallel-size \d+", "", given.get("ARGS", ""))
            given["ARGS"] += " --enforce-eager"  # Compiling takes longer than what is asked.
        elif target == "describe":
            given["FILE"] = str(self.folder / "signals.jsonl")
        else:
            own = [f"paths.outputs=outputs/rehearsal/{self.scale}", *REPLACED]
            own += [f"model.{role}={folder}" for role, folder in self.models.items()]
            own += SHORT if self.short else []
            given |= {"ARGS": " ".join([given.get("ARGS", ""), *own]), "LAUNCH": "cpu"}
            if "DATA_PATH" in given:
                pairs = 4 if given.get("SETTING") == "base" else 8
                given["DATA_PATH"] = str(self.folder / f"alignx{pairs}.jsonl")
            if self.scale != "one_gpu":
                launch = os.path.relpath(self.folder / "zero3", ROOT / "conf/accelerate")
                given |= {"LAUNCH": launch, "GPUS": "2"}
        as_they_are = ["-o", ".venv/stamp", "-o", ".venv-vllm/stamp", "VENV=.venv-vllm"]
        return ["make", *as_they_are, target, *(f"{key}={value}" for key, value in given.items())]

    def _start(self, words: list[str], log: Path) -> Process:
        with log.open("wb") as file:
            return subprocess.Popen(
                words, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def _ready(self, server: Process, words: list[str]) -> bool:
        """Wait until a server answers; whether it does."""
        ports = re.findall(r"--port (\d+)", " ".join(words))
        port = (ports or [PORTS[next(word for word in words if word in PORTS)]])[-1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while server.poll() is None:
            try:
                with opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                    return True
            except OSError:
                time.sleep(1)
        return False

    def _kill_after_a_checkpoint(self, words: list[str], log: Path) -> None:
        """SIGKILL to all processes of a training once it has saved a checkpoint."""
        training = self._start(words, log)
        while training.poll() is None:
            if any(self.folder.glob("*/rl/checkpoints/checkpoint-*/complete")):
                os.killpg(training.pid, signal.SIGKILL)
                time.sleep(5)
            time.sleep(0.2)


def _read(file: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / file).read_text("utf-8")))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SCALES:
        raise SystemExit(f"usage: rehearse.py <scale> [--short] [--again]; scales: {[*SCALES]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Servers are stopped then, too.
    Rehearsal(sys.argv[1], "--short" in sys.argv, "--again" in sys.argv).run()

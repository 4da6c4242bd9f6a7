"""Real vLLM on the CPU, for the tests that need a server."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import Serve, ServeJudgeConfig, read_values
from alignxplore_trl.run.errors import Problems

ROOT = Path(__file__).parents[1]


def served_on_cpu(model: Path, name: str = "judge") -> Serve:
    """A model served as `make serve-judge` does it, under a name, on a free port, by one thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    values = {**compose_recipe("serve_judge", []), "run_name": "x"}
    config = read_values(ServeJudgeConfig, values, Problems())
    assert config is not None
    return replace(
        config.serve,
        model=str(model),
        name=name,
        port=port,
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
        python=str(_vllm_python()),
        start_timeout=600,
    )


def _vllm_python() -> Path:
    """Python with vLLM: of VLLM_PYTHON, or of .venv-vllm, which is made where it is missing."""
    if given := os.environ.get("VLLM_PYTHON"):
        return Path(given)
    path = ROOT / ".venv-vllm" / "bin" / "python"
    if not (path.parents[1] / "stamp").is_file():
        # Under `make test-slow` the outer make's own variables would reach this one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        subprocess.run(["make", ".venv-vllm/stamp"], cwd=ROOT, env=own, check=True)
    return path

"""Real vLLM and DeepSpeed on the CPU, for the tests that need them."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import (
    Serve,
    ServeJudgeConfig,
    ServeRolloutsConfig,
    read_values,
)
from alignxplore_trl.run.errors import Problems

ROOT = Path(__file__).parents[1]


def served_on_cpu(model: Path, name: str = "judge", recipe: str = "serve_judge") -> Serve:
    """A model served as a recipe does it, under a name, on a free port, by one thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    values = {**compose_recipe(recipe, []), "run_name": "x"}
    kind = {"serve_judge": ServeJudgeConfig, "serve_rollouts": ServeRolloutsConfig}[recipe]
    config = read_values(kind, values, Problems())
    assert config is not None
    return replace(
        config.serve,
        model=str(model),
        name=name,
        port=port,
        environment={**config.serve.environment, "OMP_NUM_THREADS": "1"},
        python=str(whole_python()),
        start_timeout=600,
    )


def environment_on_cpu() -> dict[str, str]:
    """Of a process of `whole_python`: one thread, and what make has compiled for DeepSpeed."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(ROOT / ".venv-vllm" / "extensions"),
    }


def whole_python() -> Path:
    """Python with vLLM and DeepSpeed: that of .venv-vllm, which is made where it is missing."""
    path = ROOT / ".venv-vllm" / "bin" / "python"
    if not (path.parents[1] / "stamp").is_file():
        # Under `make test-slow` the outer make's own variables would reach this one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        subprocess.run(["make", ".venv-vllm/stamp"], cwd=ROOT, env=own, check=True)
    return path

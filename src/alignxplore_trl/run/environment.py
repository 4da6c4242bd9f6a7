"""What a run ran in: versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "alignxplore-trl", "torch", "trl", "transformers", "accelerate", "peft", "deepspeed",
    "datasets", "vllm", "hydra-core", "wandb",
)  # fmt: skip


ENVIRONMENT_FILE = "environment.txt"


def describe_environment(seed: int, command: str | None) -> str:
    """One `name: value` line each: packages, Python, platform, commit, seed, make command."""
    lines = [f"{name}: {_version(name)}" for name in PACKAGES]
    lines.append(f"python: {sys.version.split()[0]}")
    lines.append(f"platform: {platform.platform()}")
    lines.append(f"commit: {_commit()}")
    lines.append(f"seed: {seed}")
    if command is not None:
        lines.append(f"command: {command}")
    return "\n".join(lines) + "\n"


def read_environment(folder: Path) -> dict[str, str]:
    """What `describe_environment` said of a run, by name; empty where there is no such file."""
    path = folder / ENVIRONMENT_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit the code stands at, `+ changes` where the work tree differs from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "not a git checkout"
    return f"{commit} + changes" if _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

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


def describe_environment(seed: int) -> str:
    """One `name: value` line each: packages, Python, platform, git commit and seed."""
    lines = [f"{name}: {_version(name)}" for name in PACKAGES]
    lines.append(f"python: {sys.version.split()[0]}")
    lines.append(f"platform: {platform.platform()}")
    lines.append(f"commit: {_commit()}")
    lines.append(f"seed: {seed}")
    return "\n".join(lines) + "\n"


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

"""The folder of a stage: what it was made from, whether it is finished, who is at work in it."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from alignxplore_trl.run.errors import UserError, is_main_process
from alignxplore_trl.run.progress import say

# What may differ when a stage is taken up or read again: none of it changes what is computed.
FREE = (
    "*.urls", "*.served_as", "*.key_variable", "*.concurrency", "*.timeout", "*.deadline",
    "*.completions_every", "*.logging_*", "*.log_*", "*.save_*",
    "*.dataloader_*", "*.ddp_timeout", "*.vllm_server_*", "*.vllm_group_port",
)  # fmt: skip
PACKAGES = (
    "alignxplore-trl", "torch", "trl", "transformers", "accelerate", "peft", "deepspeed",
    "datasets", "vllm", "hydra-core", "wandb",
)  # fmt: skip
# What the rows of the data are, as `fingerprint` says, beside the sections that are kept.
SOURCE = "data.path (its content)"
_BOOKKEEPING = {"config.yaml", "environment.txt", ".lock", "wandb", "wandb_id.txt"}


@dataclass(frozen=True)
class StageFolder:
    """`outputs/<run>/<stage>/`, with the sections of the configuration that the stage reads."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where a trainer saves what an interrupted stage resumes from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model with its tokenizer."""
        return self.path / "model"

    @property
    def finished(self) -> bool:
        """Whether the stage came to its end here."""
        return (self.path / "summary.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether anything was made here that a corrected configuration could contradict."""
        return self.path.is_dir() and any(
            each.name not in _BOOKKEEPING and not each.name.startswith(".part.")
            for each in self.path.iterdir()
        )

    def summary(self) -> dict[str, Any]:
        """What `finish` wrote."""
        return dict(json.loads((self.path / "summary.json").read_text("utf-8")))

    def differences(self, sections: Mapping[str, Any]) -> list[str]:
        """Keys in which `sections` differ from what the stage was made with, with both values."""
        file = self.path / "config.yaml"
        if not file.is_file():
            return []
        kept = _flat(yaml.safe_load(file.read_text("utf-8")))
        asked = _flat(yaml.safe_load(yaml.safe_dump(dict(sections), sort_keys=False)))
        # Rows that aren't there any more can't have changed.
        free = FREE if SOURCE in kept.keys() & asked.keys() else (*FREE, SOURCE)
        return [
            f"{key}: {_shown(kept, key):.120} there, {_shown(asked, key):.120} asked"
            for key in sorted(kept.keys() | asked.keys())
            if _shown(kept, key) != _shown(asked, key) and not any(fnmatch(key, f) for f in free)
        ]

    def begin(self, sections: Mapping[str, Any]) -> None:
        """Write down what the stage is made from: the sections, and the environment."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "environment.txt", describe_environment())
        text = yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)
        write_text(self.path / "config.yaml", text)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep other commands out; however this process ends, they may enter.

        Raises:
            UserError: it can't be written to, or another command is at work here.
        """
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            remedy = "wait for it, or name this run (RUN=<name>)"
            raise UserError(f"{self.path}: another command is at work here; {remedy}") from None
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOLCK) != errno.ENOLCK:
                expected = "paths.outputs has to be a folder that can be written to"
                raise UserError(f"{self.path}: {error}; {expected}") from error
            # Some network folders have no locks.
            say(f"{self.path}: can't be locked ({error}); start one command at a time")
        try:
            yield
        finally:
            lock.release()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, one flat object, which says that the stage came to its end."""
        if is_main_process():
            text = json.dumps(dict(summary), indent=2, ensure_ascii=False)
            write_text(self.path / "summary.json", text + "\n")


def fingerprint(source: str, kept: Path) -> str | None:
    """What tells a file, or the files of a folder, from others: their content, not their times.

    It is kept in a file, and made anew where sizes or times are others. `None` where there is no
    such source here, as for names on the Hub.
    """
    path = Path(source)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    if not files:
        return None
    facts = [[str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    found = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    if found.get("facts") != facts:
        digest = hashlib.blake2b(digest_size=8)
        for file, (name, size, _) in zip(files, facts, strict=True):
            digest.update(f"{name} {size} ".encode())
            with file.open("rb") as opened:
                hashlib.file_digest(opened, lambda: digest)
        found = {"facts": facts, "digest": digest.hexdigest()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(found))
    return str(found["digest"])


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, whenever the power goes."""
    part = path.with_name(f".part.{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def describe_environment() -> str:
    """`name: value` lines: versions, platform, commit and command."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*"]
    git += ["--abbrev=40", "--dirty= + changes"]
    done = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    versions = {each.name: each.version for each in importlib.metadata.distributions()}
    facts = {name: versions.get(name, "not installed") for name in PACKAGES} | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": done.stdout.strip() if done and not done.returncode else "no git checkout",
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }
    return "".join(f"{name}: {fact}\n" for name, fact in facts.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"

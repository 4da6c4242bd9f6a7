"""The folder of a run: what is in it, when it is used again, and when it is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from alignxplore_trl.run.environment import ENVIRONMENT_FILE, describe_environment
from alignxplore_trl.run.errors import UserError

# Keys of the configuration that don't change what a run computes.
FREE_KEYS = (
    "tracking",
    "paths",
    "throughput",
    "output.push_to_hub",
    "preflight",
    "judge.server",
    "teacher.server",
    "language_model.server",
    "reward.outage",
    "verification.outage",
    "verification.cache",
    "synthesis.cache",
    "evaluation.cache",
    "scale.tokenizer",
    "scale.reply_tokens",
    "data.tokenizer",
    "data.workers",
    "sweep.launcher",
)


def is_free(key: str) -> bool:
    """Whether a key, dots between its parts, may differ when a run is taken up again."""
    return any(f"{key}.".startswith(f"{free}.") for free in FREE_KEYS)


def is_main_process() -> bool:
    """Whether this process writes: the first, of those `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, whenever the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json_atomic(path: Path, values: Mapping[str, Any]) -> None:
    """`write_text_atomic` for one JSON object."""
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """What `summary.json` says; empty where there is none.

    Raises:
        UserError: the file is damaged.
    """
    return _read_mapping(folder / "summary.json", json.loads)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that a run was started with; empty if there is none.

    Raises:
        UserError: the file is damaged.
    """
    return _read_mapping(folder / "config.yaml", yaml.safe_load)


def _read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(parse(path.read_text()))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: damaged, expected what a run had written; delete the folder {path.parent}, "
            "and make it again"
        ) from error


def facts_of_source(source: str) -> dict[str, int]:
    """What tells that a file, or a file of a folder, has changed since a run read it.

    Nothing where there is no such file: names on the Hub are downloaded once.
    """
    path = Path(source)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    stats = [file.stat() for file in files]
    if not stats:
        return {}
    return {
        "file/bytes": sum(stat.st_size for stat in stats),
        "file/modified_ns": max(stat.st_mtime_ns for stat in stats),
    }


def is_finished(folder: Path) -> bool:
    """Whether a run's `summary.json` says that it came to its end."""
    return read_summary(folder).get("finished") is True


@dataclass(frozen=True)
class RunFolder:
    """`outputs/<recipe>/<run_name>/`.

    Attributes:
        path: the folder.
        finished: an earlier run with this configuration came to its end.
        resumed: an earlier run with this configuration was interrupted.
    """

    path: Path
    finished: bool = False
    resumed: bool = False

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], command: str | None = None) -> RunFolder:
        """Make the folder, or take it up again.

        In a launch with several processes only the first one writes.

        Args:
            path: the folder.
            config: the resolved configuration, as plain values.
            command: the make command that makes this run, if there is one.

        Raises:
            UserError: the folder holds a run with another configuration, or files that no run left.
        """
        try:
            return cls._open(path, config, command)
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}: {error.filename}; paths.outputs has to be a folder "
                "that can be written to"
            ) from error

    @classmethod
    def _open(cls, path: Path, config: Mapping[str, Any], command: str | None) -> RunFolder:
        existing = path / "config.yaml"
        if existing.is_file():
            _refuse_other_config(path, read_config(path), config)
            finished = is_finished(path)
            return cls(path, finished=finished, resumed=not finished)
        if is_main_process():
            if path.exists() and not path.is_dir():
                raise UserError(f"{path}: found a file, expected a folder; move it, or give RUN=")
            path.mkdir(parents=True, exist_ok=True)
            seed = config.get("seed", 0)
            environment = describe_environment(seed, command)
            write_text_atomic(path / ENVIRONMENT_FILE, environment)
            # Written last: its presence says that a run has started here.
            write_text_atomic(existing, yaml.safe_dump(dict(config), sort_keys=False))
            _point_latest(path)
        return cls(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other commands out of the folder; however this process ends, they may enter then.

        Raises:
            UserError: another command is at work in it.
        """
        if not is_main_process():
            yield
            return
        try:
            with FileLock(self.path / ".lock", blocking=False):
                yield
        except Timeout:
            raise UserError(
                f"{self.path}: another command is at work in this folder; wait for it, or give "
                "this run a name (RUN=<name>)"
            ) from None

    @property
    def checkpoints(self) -> Path:
        """Where the trainer saves what an interrupted run resumes from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model with its tokenizer."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """One JSON object per log line of the trainer."""
        return self.path / "metrics.jsonl"

    @property
    def completions(self) -> Path:
        """Completions as Parquet files, for people to read."""
        return self.path / "completions"

    @property
    def table(self) -> Path:
        """What the run showed on the screen at its end, shown again when it is asked for again."""
        return self.path / "table.txt"

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, a flat object, which says that the run came to its end."""
        nested = [
            key for key, value in summary.items() if isinstance(value, Mapping | list | tuple)
        ]
        if nested:
            raise ValueError(f"summary.json is flat; these aren't single values: {nested}")
        if is_main_process():
            write_json_atomic(self.path / "summary.json", {"finished": True, **summary})


def _refuse_other_config(path: Path, found: Any, asked: Mapping[str, Any]) -> None:
    ours, others = _comparable(asked), _comparable(found)
    differing = sorted(
        key for key in ours.keys() | others.keys() if ours.get(key) != others.get(key)
    )
    if differing:
        values = [f"{key}: {others.get(key)!r} there, {ours.get(key)!r} asked" for key in differing]
        raise UserError(
            [
                f"{path}: holds a run with another configuration; give this one a name "
                "(RUN=<name>), or delete that folder",
                *values,
            ]
        )


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened values as they are after a round through YAML, without the free keys."""
    plain = yaml.safe_load(yaml.safe_dump(dict(config)))
    return {key: value for key, value in _flat(plain) if not is_free(key)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _point_latest(path: Path) -> None:
    """`latest` beside the run folders, for people; nothing reads it."""
    temporary = path.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name, target_is_directory=True)
    temporary.replace(path.parent / "latest")

"""The fields of TRL's configurations, read from its source: importing TRL takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from alignxplore_trl.launch.compose import did_you_mean
from alignxplore_trl.run.errors import Problems

TrainerKind = Literal["cold_start", "rl"]

# Class of the configuration -> files that define its fields, the most general first.
_SOURCES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    name: (
        ("transformers", "training_args.py", "TrainingArguments"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("trl", file, name),
    )
    for name, file in (
        ("GRPOConfig", "trainer/grpo_config.py"),
        ("SFTConfig", "trainer/sft_config.py"),
    )
}
_CLASS_OF = {"cold_start": "SFTConfig", "rl": "GRPOConfig"}
_PYTHON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "bool": bool,
    "dict": dict,
    "list": list,
    "None": type(None),
}
# Set by the recipe, each from one place.
_SET_BY_RECIPE = {
    "output_dir": "set paths.outputs or run_name",
    "seed": "set seed",
    "data_seed": "set seed",
    "report_to": "set tracking",
    "run_name": "set run_name",
    "project": "set tracking.project",
    "disable_tqdm": "bars are shown where there is a terminal",
    "resume_from_checkpoint": "an interrupted run resumes by itself",
    "model_init_kwargs": "set model.dtype or model.attn_implementation",
}


@cache
def trainer_fields(name: str) -> Mapping[str, str]:
    """Field -> annotation of `GRPOConfig` or `SFTConfig`, as written in the installed source."""
    found: dict[str, str] = {}
    for package, file, class_name in _SOURCES[name]:
        found |= _annotations(_package_folder(package) / file, class_name)
    return found


def check_trainer(kind: TrainerKind, values: Mapping[str, Any], problems: Problems) -> None:
    """Add a problem for each key that TRL lacks or the recipe sets, and each wrong type."""
    name = _CLASS_OF[kind]
    annotations = trainer_fields(name)
    for key, value in values.items():
        if key in _SET_BY_RECIPE:
            problems.add(f"trainer.{key}: the recipe sets it; {_SET_BY_RECIPE[key]} instead")
        elif key not in annotations:
            near = did_you_mean(key, list(annotations))
            problems.add(f"trainer.{key}: trl.{name} has no such field{near}")
        elif not _fits(annotations[key], value):
            hint = " (write 1.0e-6, not 1e-6)" if _reads_as_number(value) else ""
            problems.add(f"trainer.{key}: found {value!r}, expected {annotations[key]}{hint}")


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    return Path(str(spec.origin)).parent


def _annotations(file: Path, class_name: str) -> dict[str, str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        node.target.id: ast.unparse(node.annotation)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if not ast.unparse(node.annotation).startswith("ClassVar")
    }


def _fits(annotation: str, value: Any) -> bool:
    """Whether a value has one of the annotated types; annotations of other types fit anything."""
    names = [part.split("[")[0].strip() for part in annotation.split("|")]
    if any(name not in _PYTHON_TYPES for name in names):
        return True
    if isinstance(value, bool):
        return "bool" in names
    return any(isinstance(value, _PYTHON_TYPES[name]) for name in names)


def _reads_as_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)

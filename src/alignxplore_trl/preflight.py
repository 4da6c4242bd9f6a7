"""What can be said before anything is loaded, and what `make preflight` tries before a training."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from alignxplore_trl.run.errors import UserError, nearest

_OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")
# Sections that are fields of a trainer's dataclass, and fields of it that the recipe sets.
TRAINERS: Mapping[str, str] = {
    "cold_start": "alignxplore_trl.training.cold_start.ColdStartConfig",
    "rl": "alignxplore_trl.training.rounds.RoundsConfig",
}
RESERVED: Mapping[str, str] = {
    "seed": "set seed", "data_seed": "set seed", "output_dir": "set paths.outputs or run",
    "run_name": "set run", "project": "set tracking.project", "report_to": "set tracking.mode",
    "push_to_hub": "set output.push_to_hub", "hub_model_id": "set output.push_to_hub",
    "shuffle_dataset": "rows are laid out in their order before training",
    "use_cpu": "choose LAUNCH=cpu",
    "disable_tqdm": "bars are for terminals",
    "resume_from_checkpoint": "an interrupted stage resumes by itself",
    "model_init_kwargs": "set model.dtype or model.attn_implementation",
}  # fmt: skip


def check_targets(values: Mapping[str, Any]) -> None:
    """Bind what has a `_target_`, and the trainers' sections, to the signatures they are for.

    Raises:
        UserError: every key that doesn't fit, before anything is loaded.
    """
    problems = _unbound(values, "", {})
    for section in TRAINERS.keys() & values.keys():
        try:
            trainer_fields(_resolved(TRAINERS[section]), section, values[section])
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def trainer_fields(kind: type, section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's section in the types of its dataclass: 1 is a number wherever 1.0 is one.

    Raises:
        UserError: for each key that isn't a field, or isn't of its type.
    """
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    hints, values, problems = typing.get_type_hints(kind), {}, []
    for name, value in given.items():
        key = f"{section}.{name}"
        if name in RESERVED:
            problems.append(f"{key}: the recipe sets it; {RESERVED[name]}")
        elif name not in fields:
            problems.append(f"{key}: {kind.__name__} has no such field{nearest(name, fields)}")
        else:
            adapter = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
            try:
                values[name] = adapter.validate_python(value)
            except ValidationError as error:
                problems.append(f"{key}: {value!r:.120} found: {error.errors()[0]['msg']}")
    if problems:
        raise UserError(problems)
    return values


def _unbound(value: Any, key: str, seen: dict[str, str]) -> list[str]:
    if isinstance(value, list):
        return [p for i, each in enumerate(value) for p in _unbound(each, f"{key}.{i}", seen)]
    if not isinstance(value, Mapping):
        return []
    inner = ((f"{key}.{name}".lstrip("."), each) for name, each in value.items())
    problems = [problem for name, each in inner for problem in _unbound(each, name, seen)]
    # A description that stands in several places, by reference, is reported once.
    if "_target_" not in value or seen.setdefault(json.dumps(value, sort_keys=True), key) != key:
        return problems
    try:
        target, partial, given = split_target(value)
        signature = inspect.signature(target)
        (signature.bind_partial if partial else signature.bind)(**given)
    except (ImportError, AttributeError, ValueError) as error:
        problems.append(f"{key}._target_: {value['_target_']!r}: {error}")
    except TypeError as error:
        known, name = signature.parameters, value["_target_"]
        unknown = [each for each in given if each not in known]
        problems += [f"{key}.{u}: {name} has no such argument{nearest(u, known)}" for u in unknown]
        problems += [] if unknown else [f"{key}: {name}: {error}"]
    return problems


def split_target(spec: Mapping[str, Any]) -> tuple[Callable[..., Any], bool, dict[str, Any]]:
    """The class or function of a `_target_`, whether it is `_partial_`, and its arguments."""
    given = {name: each for name, each in spec.items() if name not in _OF_HYDRA}
    return _resolved(spec["_target_"]), bool(spec.get("_partial_")), given


def _resolved(name: str) -> Any:
    """What a dotted name means; what goes wrong inside of its module is said as it is."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module or "." not in module:
            raise
        return getattr(_resolved(module), attribute)  # Of a class.


def cards() -> str:
    """What this process computes on.

    Raises:
        UserError: it has no card of its own.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_CPU") == "true":
        return "the CPU"
    rank, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= found:
        raise UserError(f"GPUS: process {rank} found {found} cards here; give GPUS={found}")
    return f"{torch.cuda.get_device_name(rank)} for process {rank}"


def batches(arguments: Any, cases: int, rounds: int) -> str:
    """What a generation batch and an epoch are.

    Raises:
        UserError: there are fewer cases than a generation batch has prompts.
    """
    completions, per_prompt = arguments.generation_batch_size, arguments.num_generations
    prompts = completions // per_prompt
    said = f"{prompts} prompts x {per_prompt} rollouts = {completions} completions at once"
    if cases < prompts:
        raise UserError(f"rl: {said}, but there are only {cases} cases")
    return f"{said}; {cases} cases are {cases // prompts * rounds} of them an epoch"


def model(name: str, tokens: int = 0) -> str:
    """Whether a model is there; one that reads and writes `tokens` is the policy's.

    Raises:
        UserError: it isn't, has no room for them, or can't spell the completion format.
    """
    from transformers import AutoConfig, AutoTokenizer

    from alignxplore_trl.text.completions import tags_survive

    try:
        config = AutoConfig.from_pretrained(name).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error
    room = getattr(config, "max_position_embeddings", None) or tokens
    problems = tags_survive(tokenizer) if tokens else []
    if room < tokens:
        sum_of = "prompts.max_tokens and model.max_completion_tokens"
        problems.append(f"reads {room} tokens, but {sum_of} are {tokens} together; lower one")
    if problems:
        raise UserError([f"{name}: {problem}" for problem in problems])
    return f"context of {room} tokens"


def labelled_questions(judge: Any) -> str:
    """How many questions with known answers a judge gets right.

    Raises:
        UserError: it may as well throw a coin.
    """
    from alignxplore_trl.judging.questions import ask_labelled

    answers = ask_labelled(judge)
    if answers.low <= 0.5:
        raise UserError(f"judge: {answers}; choose another judge, model, or layout, or `chat`")
    return str(answers)

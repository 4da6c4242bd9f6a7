"""From the configuration of a training to what its memory is estimated from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alignxplore_trl.launch.config import (
    ColdStartConfig,
    GeneratorRewardSettings,
    JudgedRewardSettings,
    Launch,
    RewardSettings,
    RLConfig,
    SampledJudgeSettings,
    ServerJudgeSettings,
)
from alignxplore_trl.launch.memory import Rollouts, Sharding, TrainingStep
from alignxplore_trl.launch.model_files import NeededModel
from alignxplore_trl.run.errors import UserError

AnyTraining = ColdStartConfig | RLConfig


@dataclass(frozen=True)
class LaunchFile:
    """What the file says that `accelerate launch` is given.

    Attributes:
        processes: over all machines.
        machines: that they run on, as many on each.
        sharding: how they share the states of a training.
    """

    processes: int
    machines: int
    sharding: Sharding

    @property
    def per_machine(self) -> int:
        """Processes on each machine, and so the cards that each needs."""
        return self.processes // self.machines

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed divides the states."""
        return self.sharding.kind == "zero"


def read_launch(launch: Launch) -> LaunchFile:
    """Read the file of a launch, and DeepSpeed's own where it names one.

    Flags of `accelerate launch` come before its file: of processes that were started, their
    environment is believed. Before they are, a file of several machines may be meant for more of
    them, or fewer, as `launch.num_processes` says.

    Raises:
        UserError: one of them isn't there.
    """
    try:
        return _read_launch(Path(launch.accelerate_config), launch.num_processes)
    except FileNotFoundError as error:
        raise UserError(
            f"launch.accelerate_config: {launch.accelerate_config} found, but there is no file "
            f"{error.filename}; give the command in the project's root, or correct the name"
        ) from error


def _read_launch(file: Path, asked: int) -> LaunchFile:
    values = yaml.safe_load(file.read_text())
    processes, machines = int(values["num_processes"]), int(values.get("num_machines", 1))
    per_machine = processes // machines
    if "LOCAL_WORLD_SIZE" in os.environ:
        processes, per_machine = (
            int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
        )
    elif machines > 1 and asked % per_machine == 0:
        processes = asked
    return LaunchFile(processes, processes // per_machine, _sharding(values, processes))


def training_step(config: AnyTraining, tokens: int) -> TrainingStep:
    """One forward and backward pass, over rows of so many tokens."""
    trainer = config.trainer
    return TrainingStep(
        sequences=trainer["per_device_train_batch_size"],
        tokens=tokens,
        dtype=config.model.dtype,
        mixed_precision=bool(trainer.get("bf16") or trainer.get("fp16")),
        # TRL's own default is to compute activations again.
        gradient_checkpointing=bool(trainer.get("gradient_checkpointing", True)),
        eager_attention=config.model.attn_implementation == "eager",
        optimizer=str(trainer.get("optim", "adamw_torch")),
    )


def rollouts_of(config: RLConfig, batch: int, prompt_tokens: int) -> Rollouts:
    """What each process generates at once.

    Args:
        config: the configuration.
        batch: completions of a generation batch, over all processes.
        prompt_tokens: of the longest prompt.
    """
    trainer = config.trainer
    return Rollouts(
        sequences=batch // config.launch.num_processes,
        prompt_tokens=prompt_tokens,
        completion_tokens=trainer["max_completion_length"],
        engine=_engine(trainer),
        share_of_card=float(trainer["vllm_gpu_memory_utilization"]),
        sleeps=bool(trainer["vllm_enable_sleep_mode"]),
    )


def reward_models(
    section: str, reward: RewardSettings, config: Any
) -> tuple[list[NeededModel], bool]:
    """The models that a reward loads into each process, and whether all its positions are read.

    A judge that is served is a tokenizer here, or nothing.

    Args:
        section: of the configuration: reward or verification.
        reward: its settings.
        config: with the judge's settings.
    """
    judge = config.judge
    served = isinstance(judge, ServerJudgeSettings | SampledJudgeSettings) and judge.server.urls
    if isinstance(reward, JudgedRewardSettings):
        panel = [
            NeededModel(f"{section}.panel[{number}]", name, weights=True)
            for number, name in enumerate(reward.panel)
        ]
        if served and isinstance(judge, SampledJudgeSettings):
            return panel, False
        return [NeededModel("judge.model", judge.model, weights=not served), *panel], False
    assert isinstance(reward, GeneratorRewardSettings)
    elsewhere = bool(served and isinstance(judge, ServerJudgeSettings))
    return [NeededModel(f"{section}.generator", reward.generator, weights=not elsewhere)], True


def _engine(trainer: dict[str, Any]) -> Any:
    if not trainer["use_vllm"]:
        return "transformers"
    return "server" if trainer["vllm_mode"] == "server" else "colocated"


def _sharding(values: dict[str, Any], processes: int) -> Sharding:
    match values.get("distributed_type"):
        case "DEEPSPEED":
            return _zero(values.get("deepspeed_config", {}), processes)
        case "FSDP":
            return Sharding("fsdp", processes)
        case _:
            return Sharding("ddp" if processes > 1 else "none", processes)


def _zero(values: dict[str, Any], processes: int) -> Sharding:
    """From DeepSpeed's own file, or from the keys that accelerate has for it."""
    if file := values.get("deepspeed_config_file"):
        zero = json.loads(Path(file).read_text()).get("zero_optimization", {})
        offloads = [zero.get(f"offload_{what}", {}) for what in ("optimizer", "param")]
        to_cpu = [each.get("device", "none") != "none" for each in offloads]
        stage = zero.get("stage", 0)
    else:
        keys = ("offload_optimizer_device", "offload_param_device")
        to_cpu = [values.get(key, "none") != "none" for key in keys]
        stage = values.get("zero_stage", 2)
    return Sharding("zero", processes, int(stage), *to_cpu)

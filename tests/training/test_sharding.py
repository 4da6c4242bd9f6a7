"""Shards of DeepSpeed and FSDP on two CPU processes train on what one process trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny_cold_start
import tiny_training
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from tiny_training import launch

from tests.vllm_on_cpu import ROOT, environment_on_cpu, whole_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Of ten steps of SGD; the sums of two processes are rounded in another order.
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}


@dataclass(frozen=True)
class Sharding:
    """What `accelerate launch` makes of one of its files, with two CPU processes."""

    processes: int = 2
    deepspeed: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def sharding(name: str) -> Sharding:
    if name == "cpu2":
        return Sharding()
    file = ROOT / "conf/launch/accelerate" / f"{name}.yaml"
    found = yaml.safe_load(file.read_text())
    if found["distributed_type"] == "DEEPSPEED":
        return Sharding(deepspeed=str(ROOT / found["deepspeed_config"]["deepspeed_config_file"]))
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    of_fsdp = {key: value for key, value in environment.items() if "FSDP" in key}
    assert of_fsdp["ACCELERATE_USE_FSDP"] == "true"
    return Sharding(environment={**of_fsdp, "ACCELERATE_USE_CPU": "true"})


def environment_on(how: Sharding) -> dict[str, str]:
    return {**environment_on_cpu(), **how.environment}


def cold_start(folder: Path, how: Sharding) -> dict[str, Any]:
    """Ten steps of cold start on batches of four examples."""
    run = tiny_cold_start.Run(
        str(folder),
        examples=40,
        per_device_batch=2 // how.processes,
        accumulation=2,
        learning_rate=1e-2,
        optimizer="sgd",
        deepspeed=how.deepspeed,
    )
    script = Path(tiny_cold_start.__file__)
    finished = launch(script, run, how.processes, whole_python(), environment_on(how))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return torch.load(folder / "result_0.pt")


def streaming_rl(folder: Path, how: Sharding) -> dict[str, Any]:
    """Ten steps of RL in two rounds, with completions that depend on prompts alone."""
    run = tiny_training.Run(
        str(folder),
        cases=13,
        fewer=5,
        per_device_batch=8 // how.processes,
        completions="written",
        optimizer="sgd",
        deepspeed=how.deepspeed,
    )
    script = Path(tiny_training.__file__)
    finished = launch(script, run, how.processes, whole_python(), environment_on(how))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return torch.load(folder / "result.pt")


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (cold_start, ["cpu2", "zero2", "zero3", "zero3_offload", "fsdp2"]),
        (streaming_rl, ["zero2", "zero3", "fsdp2"]),
    ],
)
def test_shards_train_as_one_process_does(
    tmp_path: Path, train: Callable[[Path, Sharding], dict[str, Any]], names: list[str]
) -> None:
    for name in ("alone", *names):
        (tmp_path / name).mkdir()
    alone = train(tmp_path / "alone", Sharding(processes=1))
    assert len(alone["losses"]) == len(alone["gradients"]) == 10
    assert any(gradient.abs().max() > 1e-3 for gradient in alone["gradients"][0].values())
    for name in names:
        sharded = train(tmp_path / name, sharding(name))
        losses = [float(loss) for loss in sharded["losses"]]
        assert losses == pytest.approx([float(loss) for loss in alone["losses"]], abs=1e-5), name
        steps = zip(alone["gradients"], sharded["gradients"], strict=True)
        for step, (one, two) in enumerate(steps):
            for parameter, gradient in one.items():
                place = f"{name}, step {step}, {parameter}"
                torch.testing.assert_close(two[parameter], gradient, **ROUNDING, msg=place)
        for parameter, weight in alone["weights"].items():
            torch.testing.assert_close(sharded["weights"][parameter], weight, **ROUNDING)

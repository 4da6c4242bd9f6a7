"""A cold-start run in seconds, as a script on one process or under torchrun, or imported."""

from __future__ import annotations

import argparse
import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_training import (
    GradientRecorder,
    ShardedGradientRecorder,
    gradient_recorder,
    tiny_model,
    tiny_tokenizer,
    whole_weights,
    world_rows,
)
from trl import SFTConfig

from alignxplore_trl.training.cold_start import ColdStartTrainer, fit_examples
from alignxplore_trl.training.throughput import ThroughputSettings


@dataclass(frozen=True)
class Run:
    """What one run does. With a rate of 0, every step starts from the same weights."""

    folder: str
    examples: int
    per_device_batch: int
    accumulation: int
    learning_rate: float = 0.0
    optimizer: str = "adamw_torch"
    deepspeed: str = ""


def examples(count: int) -> list[dict[str, str]]:
    """Examples whose completions differ in length by a factor of ten."""
    return [
        {"prompt": row["prompt"], "completion": " seen" * (1 + 3 * (i % 4)) + f" {i} </answer>"}
        for i, row in enumerate(world_rows(count, 1))
    ]


class RecordingTrainer(ColdStartTrainer):
    """Keeps every micro-batch it is trained on."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.micro_batches.append(copy.deepcopy(dict(inputs)))
        return super().training_step(model, inputs, num_items_in_batch)


Recorder = GradientRecorder | ShardedGradientRecorder


def make_trainer(
    run: Run, throughput: ThroughputSettings | None = None, **changes: Any
) -> tuple[RecordingTrainer, Recorder]:
    dataset, _ = fit_examples(examples(run.examples), tiny_tokenizer(), max_length=300)
    values = {
        "output_dir": run.folder,
        "per_device_train_batch_size": run.per_device_batch,
        "gradient_accumulation_steps": run.accumulation,
        "num_train_epochs": 1,
        "learning_rate": run.learning_rate,
        "optim": run.optimizer,
        "deepspeed": run.deepspeed or None,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        **changes,
    }
    trainer = RecordingTrainer(
        tiny_model(), SFTConfig(**values), dataset, tiny_tokenizer(), throughput=throughput
    )
    trainer.micro_batches = []
    return trainer, gradient_recorder(trainer)


def results(trainer: RecordingTrainer, recorder: Recorder) -> dict[str, Any]:
    return {
        "weights": whole_weights(trainer),
        "micro_batches": trainer.micro_batches,
        "gradients": recorder.steps,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=json.loads)
    run = Run(**parser.parse_args().run)
    torch.set_num_threads(1)
    backend = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    trainer, recorder = make_trainer(run, **backend)
    trainer.train()
    process = os.environ.get("RANK", "0")
    torch.save(results(trainer, recorder), Path(run.folder) / f"result_{process}.pt")


if __name__ == "__main__":
    main()

"""A GRPO run in seconds: a random Llama, a tokenizer trained here, cases of the simulated world.

Run as a script, on one process or under torchrun, it trains in a folder and resumes by itself from
the last complete checkpoint there. The tests also import the parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)
from trl import GRPOConfig

from alignxplore_trl.data.rounds import round_rows, signals_of_row
from alignxplore_trl.data.world import World
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.parsing import Inference, format_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.checkpoints import (
    delete_incomplete_checkpoints,
    last_complete_checkpoint,
)
from alignxplore_trl.training.outage import OutageSettings
from alignxplore_trl.training.streaming import RoundsGRPOTrainer
from alignxplore_trl.training.throughput import ThroughputSettings
from alignxplore_trl.training.tiny_models import Shape, build_model, build_tokenizer

PROMPTS = PromptSet("compact")
SIGNALS_PER_ROUND = 2
MAX_PROMPT_TOKENS = 300


@dataclass(frozen=True)
class Run:
    """What one run does; a block has `per_device_batch x processes x accumulation / 4` cases.

    With credit, the accumulation is that of all rounds, and a block's cases are fewer by as much.
    """

    folder: str
    cases: int = 9
    fewer: int = 0
    rounds: int = 2
    credit: float = 0.0
    per_device_batch: int = 8
    accumulation: int = 2
    epochs: int = 2
    completions: Literal["sampled", "framed", "written"] = "sampled"
    optimizer: str = "adamw_torch"
    deepspeed: str = ""
    kill_in_update: int = -1
    kill_in_save: int = -1
    out_from_batch: int = -1
    out_attempts: int = 0
    out_on_process: int = 0
    out_how: Literal["silent", "raising"] = "silent"
    on_outage: Literal["wait", "abort"] = "wait"


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(PROMPTS, vocabulary=500, seed=0)


def tiny_model() -> LlamaForCausalLM:
    """Two layers of width 64, randomly initialised."""
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    return build_model(shape, tiny_tokenizer(), seed=0)


def fit(signals, earlier, max_tokens=MAX_PROMPT_TOKENS) -> FittedPrompt:
    """The prompt of some signals and an earlier description, within a budget."""
    tokenizer = tiny_tokenizer()
    return fit_prompt(
        PROMPTS.inference,
        signals,
        earlier,
        lambda text: len(tokenizer(text)["input_ids"]),
        max_tokens,
    )


def prompt_with(row, earlier, max_tokens=MAX_PROMPT_TOKENS) -> FittedPrompt:
    """The prompt of a row and an earlier description, within a budget."""
    return fit(signals_of_row(row), earlier, max_tokens)


def world_rows(cases: int, rounds: int, fewer: int = 0) -> list[dict[str, Any]]:
    """Training rows of world cases; the last `fewer` cases have one round less."""
    drawn = World(seed=1).cases("rl", cases)
    whole = round_rows(drawn[: cases - fewer], SIGNALS_PER_ROUND, rounds, fit).rows
    short = round_rows(drawn[cases - fewer :], SIGNALS_PER_ROUND, rounds - 1, fit).rows
    return [asdict(row) for row in whole + short]


def number_of(*parts: object) -> int:
    """A number that depends on values alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def hash_reward(completions: list[str], case_id: list[str], **columns: Any) -> list[float | None]:
    """0, 1 or, for one in eight, `None`: a function of the case and the completion's text."""
    numbers = [number_of(case, text) for case, text in zip(case_id, completions, strict=True)]
    return [None if number % 8 == 7 else float(number % 2) for number in numbers]


class OutReward:
    """`hash_reward` from a judge that is out for some attempts, from some batch on."""

    __name__ = "out"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.batches: list[list[str]] = []
        self.attempts = 0

    def __call__(self, completions, case_id, **columns):
        run = self.run
        if not self.batches or self.batches[-1] != completions:
            self.batches.append(completions)
        here = int(os.environ.get("RANK", "0")) == run.out_on_process
        due = len(self.batches) - 1 == run.out_from_batch and self.attempts < run.out_attempts
        if here and due:
            self.attempts += 1
            if run.out_how == "raising":
                raise ConnectionError("the judge is gone")
            return [None] * len(completions)
        columns["log_metric"]("answered", 1.0)
        columns["log_extra"]("numbered", list(range(len(completions))))
        return [float(reward or 0) for reward in hash_reward(completions, case_id)]


def written_completion(prompt: str, place_in_group: int) -> str:
    """What the injected policy writes: under one prompt in three, nothing is well-formed."""
    number = number_of(prompt, place_in_group)
    if number % 4 == 0 or number_of(prompt) % 3 == 0:
        return f" no end {number % 97}"
    description = f"prefers <post> style {number % 89}"
    return format_completion(Inference(f"seen {number % 7} signals", description))


class WritingTrainer(RoundsGRPOTrainer):
    """Completions are a function of the prompt and the place in the group, on any process count."""

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ):
        first = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for place, ids in enumerate(prompt_ids, start=first):
            text = written_completion(self.processing_class.decode(ids), place % num_generations)
            completion = self.processing_class(text)["input_ids"]
            completions.append([*completion, self.processing_class.eos_token_id])
        return completions, None


class FramingTrainer(RoundsGRPOTrainer):
    """Puts what the policy sampled between the tags: a random policy is well-formed, mostly."""

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ):
        sampled, logprobs = super()._generate_single_turn(
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        return [self._framed(ids) for ids in sampled], logprobs

    def _framed(self, sampled: list[int]) -> list[int]:
        if sum(sampled) % 4 == 0:
            return sampled
        text = self.processing_class.decode(sampled, skip_special_tokens=True)
        text = format_completion(Inference("seen", f"prefers {text}"))
        return [*self.processing_class(text)["input_ids"], self.processing_class.eos_token_id]


TRAINERS = {"sampled": RoundsGRPOTrainer, "framed": FramingTrainer, "written": WritingTrainer}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that FSDP has in shards; called on all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class GradientRecorder(TrainerCallback):
    """Keeps each optimizer step's gradients, averaged over processes."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **objects):
        parameters = getattr(model, "module", model).named_parameters()
        self.steps.append({name: whole(parameter.grad).clone() for name, parameter in parameters})


class ShardedGradientRecorder(TrainerCallback):
    """The same under DeepSpeed, whose engine steps within `backward`; on all processes."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, args, state, control, **objects):
        from deepspeed.utils import safe_get_full_grad

        engine = self.trainer.model_wrapped
        step = engine.step

        def record_and_step(*arguments, **options):
            if engine.is_gradient_accumulation_boundary():
                named = engine.module.named_parameters()
                self.steps.append({name: safe_get_full_grad(own).clone() for name, own in named})
            return step(*arguments, **options)

        engine.step = record_and_step


def gradient_recorder(trainer: Trainer) -> GradientRecorder | ShardedGradientRecorder:
    """The recorder that the trainer's launch needs, added to it."""
    sharded = trainer.is_deepspeed_enabled
    recorder = ShardedGradientRecorder(trainer) if sharded else GradientRecorder()
    trainer.add_callback(recorder)
    return recorder


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights, gathered from their shards; called on all processes."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped, unwrap=True)


class KillInUpdate(TrainerCallback):
    """Kills this process the hard way after an update's completions, before its step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **objects):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(trainer: RoundsGRPOTrainer, step: int) -> None:
    """Kill this process the hard way when half of a step's checkpoint is written."""
    save = trainer._save_optimizer_and_scheduler

    def save_or_die(folder: str) -> None:
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(folder)

    trainer._save_optimizer_and_scheduler = save_or_die


def make_trainer(
    run: Run,
    rows: list[dict[str, Any]] | None = None,
    reward: Any = hash_reward,
    kind: type[RoundsGRPOTrainer] | None = None,
    throughput: ThroughputSettings | None = None,
    model: PreTrainedModel | None = None,
    peft_config: Any = None,
    **changes: Any,
) -> RoundsGRPOTrainer:
    """The trainer of a run; `changes` replace values of its `GRPOConfig`."""
    values = {
        "output_dir": run.folder,
        "per_device_train_batch_size": run.per_device_batch,
        "gradient_accumulation_steps": run.accumulation,
        "steps_per_generation": run.accumulation // (run.rounds if run.credit else 1),
        "num_generations": 4,
        "max_completion_length": 16,
        "num_train_epochs": run.epochs,
        "save_steps": 1,
        "save_total_limit": 1,
        "learning_rate": 1e-2,
        "optim": run.optimizer,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "loss_type": "grpo",
        "beta": 0.0,
        "bf16": False,
        "seed": 3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "deepspeed": run.deepspeed or None,
        **changes,
    }
    return (kind or TRAINERS[run.completions])(
        model or tiny_model(),
        reward,
        GRPOConfig(**values),
        Dataset.from_list(rows or world_rows(run.cases, run.rounds, run.fewer)),
        tiny_tokenizer(),
        prompt_with=prompt_with,
        rounds=run.rounds,
        round_credit=run.credit,
        completions_folder=Path(run.folder) / "completions",
        outage=None
        if run.out_from_batch < 0
        else OutageSettings(0.4, run.on_outage, pause_seconds=0.01, limit_seconds=60.0),
        throughput=throughput,
        peft_config=peft_config,
    )


def launch(
    script: Path,
    run: Any,
    processes: int,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder with a `Run` on one process or, under torchrun, on several."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [str(python), *(torchrun if processes > 1 else []), str(script)]
    with subprocess.Popen(
        [*command, json.dumps(asdict(run))],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DS_ACCELERATOR": "cpu",
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            output, errors = started.communicate(timeout=900)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(started.args, started.returncode, output, errors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=json.loads)
    run = Run(**parser.parse_args().run)
    torch.set_num_threads(1)
    folder = Path(run.folder)
    backend = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    reward = hash_reward if run.out_from_batch < 0 else OutReward(run)
    trainer = make_trainer(run, reward=reward, **backend)
    recorder = gradient_recorder(trainer)
    trainer.add_callback(KillInUpdate(run.kill_in_update))
    kill_in_save(trainer, run.kill_in_save)
    if trainer.accelerator.is_main_process:
        delete_incomplete_checkpoints(folder)
    checkpoint = last_complete_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    weights = whole_weights(trainer)
    if trainer.accelerator.is_main_process:
        result = {
            "resumed_from": None if checkpoint is None else checkpoint.name,
            "weights": weights,
            "gradients": recorder.steps,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        }
        torch.save(result, folder / "result.pt")


if __name__ == "__main__":
    main()

"""A GRPO run in seconds: a random Llama, a tokenizer trained here, cases of the simulated world.

Run as a script, on one process or under torchrun, it trains in `--folder` and resumes by itself
from the last complete checkpoint there. The tests import the parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    set_seed,
)
from trl import GRPOConfig

from alignxplore_trl.data.world import World
from alignxplore_trl.signals import rounds_of_signals, signal_to_dict
from alignxplore_trl.text.parsing import Inference, format_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.checkpoints import (
    delete_incomplete_checkpoints,
    last_complete_checkpoint,
)
from alignxplore_trl.training.streaming import RoundsGRPOTrainer

PROMPTS = PromptSet("compact")
SIGNALS_PER_ROUND = 2


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens, trained on prompts of the world."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [row["prompt"] for row in world_rows(cases=40, rounds=2)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|pad|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", padding_side="left"
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 64, randomly initialised."""
    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
    )


def world_rows(cases: int, rounds: int, fewer: int = 0) -> list[dict[str, Any]]:
    """Training rows of world cases; the last `fewer` cases have one round less."""
    rows = []
    for number, case in enumerate(World(seed=1).cases("rl", cases)):
        rounds_of_case = rounds - (number >= cases - fewer)
        groups = rounds_of_signals(case, SIGNALS_PER_ROUND, rounds_of_case)
        for round_number, signals in enumerate(groups, start=1):
            rows.append(
                {
                    "prompt": PROMPTS.inference(signals, None),
                    "case_id": case.case_id,
                    "user_id": case.user_id,
                    "round": round_number,
                    "signals": json.dumps([signal_to_dict(signal) for signal in signals]),
                    "post": case.target.post,
                    "chosen": case.target.chosen,
                    "rejected": case.target.rejected,
                }
            )
    return rows


def number_of(*parts: object) -> int:
    """A number that depends on values alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def hash_reward(completions: list[str], case_id: list[str], **columns: Any) -> list[float | None]:
    """0, 1 or, for one in eight, `None`: a function of the case and the completion's text."""
    numbers = [number_of(case, text) for case, text in zip(case_id, completions, strict=True)]
    return [None if number % 8 == 7 else float(number % 2) for number in numbers]


def written_completion(prompt: str, place_in_group: int) -> str:
    """What the injected policy writes: three of four completions are well-formed."""
    number = number_of(prompt, place_in_group)
    if number % 4 == 0:
        return f" no end {number % 97}"
    description = f"prefers style {number % 89}"
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
    """Puts what the policy sampled between the tags, so that a random policy is well-formed."""

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ):
        sampled, logprobs = super()._generate_single_turn(
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        return [self._framed(ids) for ids in sampled], logprobs

    def _framed(self, sampled: list[int]) -> list[int]:
        words = [number for number in sampled if number != self.processing_class.eos_token_id]
        if sum(words) % 4 == 0:
            return sampled
        described = self.processing_class.decode(words[4:])
        text = format_completion(Inference("seen", f"prefers {described}"))
        return [*self.processing_class(text)["input_ids"], self.processing_class.eos_token_id]


class GradientRecorder(TrainerCallback):
    """Keeps each optimizer step's gradients, averaged over processes."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **objects):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})


class KillAt(TrainerCallback):
    """Kills this process the hard way when an optimizer step is done, or while it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **objects):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Run:
    """What a run of the script does."""

    folder: str
    cases: int = 9
    fewer: int = 0
    rounds: int = 2
    generations: int = 4
    per_device_batch: int = 8
    accumulation: int = 2
    epochs: int = 2
    save_steps: int = 1
    completions: Literal["sampled", "framed", "written"] = "sampled"
    kill_at: int = -1
    learning_rate: float = 1e-2
    optimizer: str = "adamw_torch"


def make_trainer(run: Run, **changes: Any) -> RoundsGRPOTrainer:
    """The trainer of a run; `changes` replace values of its `GRPOConfig`."""
    tokenizer = tiny_tokenizer()
    values = {
        "output_dir": run.folder,
        "per_device_train_batch_size": run.per_device_batch,
        "gradient_accumulation_steps": run.accumulation,
        "num_generations": run.generations,
        "max_completion_length": 16,
        "num_train_epochs": run.epochs,
        "save_steps": run.save_steps,
        "save_total_limit": 2,
        "learning_rate": run.learning_rate,
        "optim": run.optimizer,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "loss_type": "grpo",
        "beta": 0.0,
        "seed": 3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        **changes,
    }
    trainer_classes = {
        "sampled": RoundsGRPOTrainer,
        "framed": FramingTrainer,
        "written": WritingTrainer,
    }
    return trainer_classes[run.completions](
        tiny_model(tokenizer),
        hash_reward,
        GRPOConfig(**values),
        Dataset.from_list(world_rows(run.cases, run.rounds, run.fewer)),
        tokenizer,
        prompts=PROMPTS,
        max_prompt_tokens=300,
        rounds=run.rounds,
        completions_folder=Path(run.folder) / "completions",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=json.loads)
    run = Run(**parser.parse_args().run)
    torch.set_num_threads(1)
    folder = Path(run.folder)
    backend = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    trainer = make_trainer(run, **backend)
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.add_callback(KillAt(run.kill_at))
    if trainer.accelerator.is_main_process:
        delete_incomplete_checkpoints(folder)
    checkpoint = last_complete_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.accelerator.is_main_process:
        torch.save(
            {
                "run": asdict(run),
                "resumed_from": None if checkpoint is None else checkpoint.name,
                "weights": trainer.model.state_dict(),
                "gradients": recorder.steps,
                "log": trainer.state.log_history,
            },
            folder / "result.pt",
        )


if __name__ == "__main__":
    main()

"""How fast cold start and RL are on this machine's GPU, beside plain TRL.

    python benchmarks/gpu.py [--shape tiny|0.5b|7b] [--steps 2]

Models have Qwen2.5's shapes and random weights; nothing is downloaded. All weights are trained, on
one card: of 0.5b in float32 with bf16 products, of 7b adapters on bfloat16. Prompts are random
tokens. Each variant runs in a process of its own, and its first update isn't counted.

    cold_start/plain, /ours, /checkpointing     trl.SFTTrainer, ColdStartTrainer
    rl/plain, /ours, /shared, /vllm             trl.GRPOTrainer, RoundsTrainer (a prompt a group)

The last line is one JSON object with, for each variant, `tokens_per_second`, `mfu` (goal of cold
start: 0.45; not of a device whose peak isn't known), `peak_memory_gib`, `seconds_per_update` and,
in RL, `seconds/generate`, `/rewards` and `/update` (the rest), by TRL's own profiling; or a text
that says why there are none ("not installed", "does not fit", "failed: …").
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import resource
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    TrainerCallback,
)
from trl import GRPOTrainer, SFTTrainer
from trl.extras.profiling import ProfilingContext

from alignxplore_trl.text.budget import FittedPrompt
from alignxplore_trl.training.cold_start import ColdStartConfig, ColdStartTrainer
from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer
from alignxplore_trl.training.throughput import Throughput

logger = logging.getLogger("benchmark")

WARM_UP, EXAMPLES, GROUPS, GENERATIONS = 1, 8, 8, 4
VARIANTS = (
    "cold_start/plain", "cold_start/ours", "cold_start/checkpointing",
    "rl/plain", "rl/ours", "rl/shared", "rl/vllm",
)  # fmt: skip
# By names of TRL's profiling.
GENERATING = ("transformers.generate", "vLLM.generate", "sync_weights")


@dataclass(frozen=True)
class Shape:
    """A model, by the sizes `QWEN`, and the tokens of its prompts and longest completions."""

    model: tuple[int, ...]
    prompt: int
    example: int
    rollout: int
    adapters: bool = False


QWEN = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size",
)  # fmt: skip
SHAPES = {
    "tiny": Shape((128, 256, 2, 2, 1, 2048), 96, 64, 32),
    "0.5b": Shape((896, 4864, 24, 14, 2, 151_936), 2048, 1536, 512),
    "7b": Shape((3584, 18_944, 28, 28, 4, 152_064), 2048, 1536, 512, adapters=True),
}


def tokenizer_of(words: int) -> PreTrainedTokenizerFast:
    """A word for every id that a model may write; the first ones are padding and end of text."""
    names = ["<pad>", "<end>", *(f"w{number}" for number in range(2, words))]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def odd_ones(completions: list[str], **columns: Any) -> list[float | None]:
    return [float(number % 2) for number in range(len(completions))]


class AfterWarmUp(TrainerCallback):
    """Begins to count, the seconds by the names of TRL's profiling too."""

    def __init__(self, meter: Throughput) -> None:
        self.meter, self.seconds = meter, Counter[str]()

        def collect(context: ProfilingContext, duration: float) -> None:
            self.seconds[context.name.partition(".")[2]] += duration

        ProfilingContext._log_metrics = collect

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == WARM_UP:
            self.meter.measured()
            self.seconds.clear()


def trainer_of(variant: str, shape: Shape, steps: int, folder: Path) -> Any:
    """The trainer of a variant, on random tokens."""
    cuda, (stage, kind) = torch.cuda.is_available(), variant.split("/")
    words, draw, count = shape.model[-1], random.Random(0), WARM_UP + steps
    tokenizer = tokenizer_of(words)
    dtype = torch.bfloat16 if shape.adapters else torch.float32
    config = Qwen2Config(
        **dict(zip(QWEN, shape.model, strict=True)), tie_word_embeddings=not shape.adapters,
        max_position_embeddings=32_768, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if kind == "vllm":  # It loads the model, too.
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    lora = LoraConfig(r=32, target_modules="all-linear") if shape.adapters else None
    common = {
        "output_dir": str(folder), "max_steps": count, "save_strategy": "no",
        "logging_steps": 100, "report_to": "none", "disable_tqdm": True, "bf16": True,
        "use_cpu": not cuda, "learning_rate": 1e-6, "gradient_checkpointing": kind != "ours",
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    if stage == "cold_start":
        lengths = [draw.randint(shape.example // 4, shape.example) for _ in range(count * EXAMPLES)]
        texts = [draw.choices(range(2, words), k=shape.prompt + own) for own in lengths]
        labels = [[-100] * shape.prompt + text[shape.prompt :] for text in texts]
        rows = Dataset.from_dict({"input_ids": texts, "labels": labels})
        args = ColdStartConfig(**common, max_length=None, gradient_accumulation_steps=EXAMPLES // 4)
        return (SFTTrainer if kind == "plain" else ColdStartTrainer)(
            model=model, args=args, train_dataset=rows,
            processing_class=tokenizer, peft_config=lora,
        )  # fmt: skip
    rollouts = {
        "num_generations": GENERATIONS, "max_completion_length": shape.rollout, "beta": 0.0,
        "gradient_accumulation_steps": GROUPS, "share_prompts": kind in ("shared", "vllm"),
        "log_completions": False, "gradient_checkpointing": True,
    }  # fmt: skip
    if kind == "vllm":
        rollouts |= {
            "use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3,
            "vllm_enable_sleep_mode": cuda, "vllm_importance_sampling_mode": "token_truncate",
            "vllm_max_model_length": shape.prompt + shape.rollout,
        }  # fmt: skip
    ids = [draw.choices(range(2, words), k=shape.prompt) for _ in range(count * GROUPS)]
    prompts = [" ".join(f"w{number}" for number in text) for text in ids]
    rounds = {"prompt": prompts, "case_id": [*map(str, range(len(ids)))], "round": [1] * len(ids)}
    cases = Dataset.from_dict(rounds)
    args = RoundsConfig(**common | rollouts)
    if kind == "plain":
        return GRPOTrainer(
            model=model, reward_funcs=odd_ones, args=args, train_dataset=cases,
            processing_class=tokenizer, peft_config=lora,
        )  # fmt: skip
    return RoundsTrainer(
        model, odd_ones, args, cases, tokenizer, rounds=1, peft_config=lora,
        prompt_with=lambda row, earlier: FittedPrompt(row["prompt"]),
    )  # fmt: skip


def measure(variant: str, shape: Shape, steps: int) -> dict[str, float]:
    """Figures of one training."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(variant, shape, steps, Path(folder))
        meter = getattr(trainer, "throughput", None) or _counting(trainer)
        counted = AfterWarmUp(meter)
        trainer.add_callback(counted)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if meter.done.is_cuda:
        torch.cuda.synchronize()
    begun = meter.since
    figures = {name.partition("/")[2]: value for name, value in meter.measured().items()}
    figures["seconds_per_update"] = (meter.since - begun) / steps
    peak = torch.cuda.max_memory_allocated() if meter.done.is_cuda else 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures["peak_memory_gib"] = peak / 2**30 or resident
    del figures["judge_share"]
    if variant.startswith("rl"):
        generating = sum(counted.seconds[name] for name in GENERATING) / steps
        rewards = counted.seconds["_calculate_rewards"] / steps
        figures |= {"seconds/generate": generating, "seconds/rewards": rewards}
        figures["seconds/update"] = figures["seconds_per_update"] - generating - rewards
    return figures


def _counting(trainer: Any) -> Throughput:
    """The meter of a trainer of TRL, which has none."""
    meter, loss = Throughput(trainer), trainer.compute_loss

    def counted(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        masks = [inputs[name] for name in inputs if name.endswith("_mask")]
        meter.count(sum(mask.sum(-1) for mask in masks))
        return loss(model, inputs, *rest, **named)

    trainer.compute_loss = counted
    return meter


def measure_apart(variant: str, shape: Shape, steps: int) -> dict[str, float] | str:
    """`measure` in a process of its own, or why there is nothing to tell."""
    if variant.endswith("vllm") and find_spec("vllm") is None:
        return "not installed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alignxplore_trl.training.rounds"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(measure, variant, shape, steps).result()
        except torch.OutOfMemoryError:
            return "does not fit"
        except Exception as error:  # What was measured before, and what comes, is worth having.
            logger.exception("%s", variant)
            return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = "cuda" if torch.cuda.device_count() else "cpu"  # It doesn't begin CUDA.
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="0.5b" if device == "cuda" else "tiny")
    parser.add_argument("--steps", type=int, default=2, help="updates that are counted")
    given = parser.parse_args()
    result: dict[str, Any] = {"shape": given.shape, "device": device}
    for variant in VARIANTS:
        found = measure_apart(variant, SHAPES[given.shape], given.steps)
        figures = {"": found} if isinstance(found, str) else found
        shown = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in figures.items()}
        logger.info("%s: %s", variant, shown)
        result |= {f"{variant}/{name}".rstrip("/"): value for name, value in shown.items()}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(any(str(value).startswith("failed") for value in result.values()))


if __name__ == "__main__":
    main()

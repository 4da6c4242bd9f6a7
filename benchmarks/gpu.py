"""How fast cold start and RL are on this machine's GPU, beside plain TRL.

    python benchmarks/gpu.py [--shape 0.5b|7b|tiny] [--steps 2] [--device cuda|cpu]

Models have Qwen2.5's shapes and random weights in bfloat16, made on the device; nothing is
downloaded. All weights are trained, on one card. Settings are those of conf/ at SCALE=one_gpu but
for what is varied; plain TRL has its defaults, the same model, rows, limits of length, and rows or
completions per update. Prompts are of the simulated world. Completions of cold start are random
words, of up to 16 times the length of others. Rollouts of random weights go up to the limit, since
they hardly ever draw the end of text. Each variant runs in a process of its own, so that none finds
memory that another left; its first update isn't counted.

    cold_start/plain                       trl.SFTTrainer
    cold_start/padded                      ColdStartTrainer, a row per example
    cold_start/padding_free                the same, a batch is one row
    cold_start/…_checkpointing             the two with activations computed again
    rl/plain                               trl.GRPOTrainer, a reward that costs nothing
    rl/transformers                        RoundsGRPOTrainer, rollouts by transformers
    rl/vllm                                the same, by vLLM in the training's process

The judge of ours is a `LocalJudge` of the shape 0.5b (of tiny: tiny) with random weights on the
same device. It is asked about every completion as it was written, because random weights write no
description. The last line is one JSON object, with these figures of each variant, or a text that
says why there are none ("not installed", "does not fit", "failed: …"; only the last is an error):

    tokens_per_second          trained on, padding left out
    mfu                        see docs/throughput.md; the goal is 0.45; not of a device whose peak
                               isn't known
    peak_memory_gib            as torch allocates it; without a GPU of the whole process
    seconds_per_update
    share/generate, /judge, /train, /sync, /other    of the time (ours in RL)
    seconds/generate, and so on                      of an update (ours in RL)
    generated_tokens_per_second                      of the whole time (ours in RL)
    mfu_train                                        of the phase alone (ours in RL)
    vs_plain                   tokens_per_second / those of plain TRL; without the judge's time
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Qwen2Config,
    TrainerCallback,
)
from transformers.utils.import_utils import is_flash_attn_2_available
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from alignxplore_trl.data.rounds import round_rows, signals_of_row
from alignxplore_trl.data.world import World
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import JudgedPair, preference_probabilities
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.machine import this_machine
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.cold_start import ColdStartTrainer, fit_examples
from alignxplore_trl.training.streaming import RoundsGRPOTrainer
from alignxplore_trl.training.throughput import MeasuresThroughput, Throughput

logger = logging.getLogger("benchmark")

WARM_UP = 1  # Updates that aren't counted.
EXAMPLES, COMPLETIONS, GENERATIONS = 8, 32, 4  # Of an update: rows, rollouts; rollouts of a prompt.
MAX_PROMPT_TOKENS = 4096
JUDGE_BATCH_TOKENS = 16_384
TOKENIZER = Path(__file__).parents[1] / "assets" / "backbone"
PROMPTS = PromptSet("default")

# Of `Throughput.metrics`: of every variant, and of ours in RL, which alone knows its phases there.
FIGURES = ("tokens_per_second", "mfu", "peak_memory_gib")
FIGURES_OF_PHASES = (
    "generated_tokens_per_second", "mfu_train",
    "share/generate", "share/judge", "share/train", "share/sync", "share/other",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model, and what it is trained on.

    Attributes:
        model: of `Qwen2Config`.
        card_gib: memory of a card from which on it is the default.
        signals: of a prompt.
        example_tokens: of the longest completion in cold start.
        rollout_tokens: of the longest rollout.
        rows_per_pass: examples of a forward pass in cold start.
        judge: the judge's shape.
    """

    model: Mapping[str, int | bool]
    card_gib: int
    signals: int
    example_tokens: int
    rollout_tokens: int
    rows_per_pass: int
    judge: str


SHAPES = {
    "tiny": Shape(
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 2048,
         "tie_word_embeddings": True},
        card_gib=0, signals=4, example_tokens=64, rollout_tokens=32, rows_per_pass=4, judge="tiny",
    ),
    "0.5b": Shape(
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
         "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936,
         "tie_word_embeddings": True},
        card_gib=0, signals=8, example_tokens=1536, rollout_tokens=512, rows_per_pass=4,
        judge="0.5b",
    ),
    "7b": Shape(
        {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064,
         "tie_word_embeddings": False},
        card_gib=120, signals=8, example_tokens=1536, rollout_tokens=512, rows_per_pass=2,
        judge="0.5b",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all variants have in common."""

    shape: str
    device: str
    attention: str
    steps: int

    @property
    def updates(self) -> int:
        return WARM_UP + self.steps


@dataclass(frozen=True)
class Variant:
    """One training: its name, and what is other than in conf/ (of plain TRL: than its defaults)."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]

    @property
    def plain(self) -> bool:
        return self.name.endswith("/plain")


def all_variants(device: str) -> list[Variant]:
    """Plain TRL first, for the ratios; what takes longest to start last."""
    cold_start = [
        Variant(
            f"cold_start/{rows}{'_checkpointing' if again else ''}",
            {"padding_free": rows == "padding_free", "gradient_checkpointing": again},
        )
        for rows in ("padded", "padding_free")
        for again in (False, True)
    ]
    # vLLM can't sleep on a CPU.
    vllm = {"use_vllm": True, "vllm_enable_sleep_mode": device == "cuda"}
    return [
        Variant("cold_start/plain"),
        *cold_start,
        Variant("rl/plain"),
        Variant("rl/transformers", {"use_vllm": False}),
        Variant("rl/vllm", vllm),
    ]


# --- models and rows ------------------------------------------------------------------------------


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """The shipped tokenizer, with a word for every other id that a model may write."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, padding_side="left")
    tokenizer.add_tokens([f" word{number}" for number in range(len(tokenizer), vocabulary)])
    return tokenizer


def make_model(shape: str, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape].model,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(setting.device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=setting.attention
        )
    return model


class Prompts:
    """Prompts of the world within the budget, counted by a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def rows(self, count: int, signals: int) -> list[dict[str, Any]]:
        """One row per case, as RL takes them."""
        cases = World(seed=0, signals_per_user=signals).cases("rl", count)
        return [asdict(row) for row in round_rows(cases, signals, 1, self.fit).rows]

    def fit(self, signals: Sequence[Signal], earlier: str | None) -> FittedPrompt:
        def count(text: str) -> int:
            return len(self.tokenizer(text)["input_ids"])

        return fit_prompt(PROMPTS.inference, signals, earlier, count, MAX_PROMPT_TOKENS)

    def with_earlier(self, row: Mapping[str, Any], earlier: str) -> FittedPrompt:
        return self.fit(signals_of_row(row), earlier)


def make_examples(shape: Shape, prompts: Prompts, count: int) -> list[dict[str, str]]:
    """Prompts with completions of random words."""
    draw = random.Random(0)
    first, last = len(AutoTokenizer.from_pretrained(TOKENIZER)), len(prompts.tokenizer) - 1
    longest = shape.example_tokens
    lengths = [draw.randint(longest // 16, longest) for _ in range(count)]
    return [
        {
            "prompt": row["prompt"],
            "completion": "".join(f" word{draw.randint(first, last)}" for _ in range(length)),
        }
        for row, length in zip(prompts.rows(count, shape.signals), lengths, strict=True)
    ]


# --- rewards --------------------------------------------------------------------------------------


def free_reward(completions: list[str], **columns: Any) -> list[float]:
    """Costs nothing, and differs within a group."""
    return [float(number % 2) for number in range(len(completions))]


class WhateverIsWritten:
    """Asks the judge about each completion as if it were a description."""

    __name__ = "judged"

    def __init__(self, judge: LocalJudge) -> None:
        self.judge = judge

    def __call__(
        self,
        completions: list[str],
        case_id: list[str],
        post: list[str],
        chosen: list[str],
        rejected: list[str],
        **columns: Any,
    ) -> list[float | None]:
        columns_of_pairs = zip(case_id, post, completions, chosen, rejected, strict=True)
        pairs = [JudgedPair(*values) for values in columns_of_pairs]
        return preference_probabilities(self.judge, pairs, "random", seed=0)


# --- trainings ------------------------------------------------------------------------------------


class MeasuredSFTTrainer(MeasuresThroughput, SFTTrainer):
    """Plain TRL with our meter."""


class MeasuredGRPOTrainer(MeasuresThroughput, GRPOTrainer):
    """Plain TRL with our meter; what isn't training is counted as `train`, too."""


AnyTrainer = ColdStartTrainer | MeasuredSFTTrainer | RoundsGRPOTrainer | MeasuredGRPOTrainer


def make_arguments(
    variant: Variant, setting: Setting, folder: str, **values: Any
) -> dict[str, Any]:
    """Values of TRL's configuration: those of conf/ or TRL's own, what all share, and changes."""
    composed = compose_recipe(variant.stage, ["scale=one_gpu"])["trainer"]
    return {
        **({} if variant.plain else composed),
        "output_dir": folder,
        "max_steps": setting.updates,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": True,
        "use_cpu": setting.device == "cpu",
        **values,
        **variant.changes,
    }


def make_cold_start(variant: Variant, setting: Setting, folder: str) -> AnyTrainer:
    shape = SHAPES[setting.shape]
    tokenizer = make_tokenizer(int(shape.model["vocab_size"]))
    examples = make_examples(shape, Prompts(tokenizer), EXAMPLES * setting.updates)
    limit = MAX_PROMPT_TOKENS + shape.example_tokens + 1
    dataset, _ = fit_examples(examples, tokenizer, limit)
    per_pass = EXAMPLES if variant.plain else shape.rows_per_pass
    arguments = make_arguments(
        variant, setting, folder,
        max_length=limit,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=EXAMPLES // per_pass,
    )  # fmt: skip
    return (MeasuredSFTTrainer if variant.plain else ColdStartTrainer)(
        model=make_model(setting.shape, tokenizer, setting),
        args=SFTConfig(**arguments),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def make_rl(variant: Variant, setting: Setting, folder: str) -> AnyTrainer:
    shape = SHAPES[setting.shape]
    tokenizer = make_tokenizer(int(shape.model["vocab_size"]))
    prompts = Prompts(tokenizer)
    rows = prompts.rows(COMPLETIONS // GENERATIONS * setting.updates, shape.signals)
    per_pass = GRPOConfig.per_device_train_batch_size
    arguments = make_arguments(
        variant, setting, folder,
        num_generations=GENERATIONS,
        max_completion_length=shape.rollout_tokens,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=COMPLETIONS // per_pass,
        steps_per_generation=COMPLETIONS // per_pass,
    )  # fmt: skip
    model = make_model(setting.shape, tokenizer, setting)
    common = {"args": GRPOConfig(**arguments), "train_dataset": Dataset.from_list(rows),
              "processing_class": tokenizer}  # fmt: skip
    if variant.plain:
        return MeasuredGRPOTrainer(model=model, reward_funcs=free_reward, **common)
    if arguments["use_vllm"]:
        model = from_folder(model, tokenizer, Path(folder) / "model", setting)
    judge_tokenizer = make_tokenizer(int(SHAPES[shape.judge].model["vocab_size"]))
    judge = LocalJudge(
        make_model(shape.judge, judge_tokenizer, setting).eval(),
        judge_tokenizer,
        PROMPTS,
        max_batch_tokens=JUDGE_BATCH_TOKENS,
        minimum_label_mass=0.0,
    )
    return RoundsGRPOTrainer(
        model=model,
        reward_funcs=WhateverIsWritten(judge),
        prompt_with=prompts.with_earlier,
        rounds=1,
        **common,
    )


def from_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, setting: Setting
) -> PreTrainedModel:
    """The same model, loaded from a folder, which is where vLLM loads it from, too."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=setting.attention
    )
    return loaded


class AfterWarmUp(TrainerCallback):
    """Forgets the updates that aren't counted."""

    def __init__(self, trainer: AnyTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        if state.global_step == WARM_UP:
            self.trainer.totals = Throughput()


def measure(variant: Variant, setting: Setting) -> dict[str, float]:
    """Figures of one training, by name."""
    make = {"cold_start": make_cold_start, "rl": make_rl}[variant.stage]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(variant, setting, folder)
        trainer.add_callback(AfterWarmUp(trainer))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    knows_phases = variant.stage == "rl" and not variant.plain
    return figures_of(trainer.totals, setting.steps, knows_phases)


def figures_of(totals: Throughput, steps: int, knows_phases: bool) -> dict[str, float]:
    """Figures of so many updates, by name; what isn't known is left out."""
    metrics = {name.removeprefix("throughput/"): own for name, own in totals.metrics().items()}
    names = (*FIGURES, *(FIGURES_OF_PHASES if knows_phases else ()))
    figures = {name: metrics[name] for name in names if name in metrics}
    if knows_phases:
        figures |= {f"seconds/{phase}": own / steps for phase, own in totals.seconds.items()}
    return figures | {"seconds_per_update": totals.wall_seconds / steps}


def measure_apart(variant: Variant, setting: Setting) -> dict[str, float] | str:
    """`measure` in a process of its own, or why there is nothing to tell."""
    if variant.changes.get("use_vllm") and find_spec("vllm") is None:
        return "not installed"
    # Libraries are loaded once, and CUDA in each process; a fork of this one couldn't use it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alignxplore_trl.training.streaming"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(measure, variant, setting).result()
        except torch.OutOfMemoryError:
            return "does not fit"
        except Exception as error:  # What was measured before, and what comes, is worth having.
            logger.exception("%s", variant.name)
            reason = str(error).strip().split("\n")[0]
            return f"failed: {type(error).__name__}: {reason}"


def vs_plain(found: Mapping[str, float], plain: Mapping[str, float]) -> float:
    """How many times the tokens per second of plain TRL, which has no judge."""
    without_judge = 1 - found.get("share/judge", 0.0)
    return found["tokens_per_second"] / without_judge / plain["tokens_per_second"]


def measure_all(setting: Setting) -> dict[str, float | str]:
    """Every figure and ratio by name."""
    result: dict[str, float | str] = {}
    plain: dict[str, dict[str, float]] = {}
    for variant in all_variants(setting.device):
        found = measure_apart(variant, setting)
        logger.info("%s: %s", variant.name, rounded(found))
        if isinstance(found, str):
            result[variant.name] = found
            continue
        if variant.plain:
            plain[variant.stage] = found
        elif variant.stage in plain:
            found = found | {"vs_plain": vs_plain(found, plain[variant.stage])}
        result |= {f"{variant.name}/{name}": value for name, value in found.items()}
    return result


def rounded(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {name: rounded(value) for name, value in found.items()}
    return float(f"{found:.3g}") if isinstance(found, float) else found


def read_setting(arguments: Sequence[str]) -> Setting:
    """The setting of a command line; ends with status 2 where it asks for what isn't here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="default: the largest that fits the card")
    parser.add_argument("--steps", type=int, default=2, help="updates that are counted")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: the GPU if there is one"
    )
    given = parser.parse_args(arguments)
    cards = this_machine(Path.cwd()).cards
    device = given.device or ("cuda" if cards else "cpu")
    if given.steps < 1:
        parser.error(f"--steps: {given.steps} found, expected at least 1")
    if device == "cuda" and not cards:
        parser.error(
            "--device: cuda found, but nvidia-smi names no GPU; --device cpu runs tiny here"
        )
    shape = given.shape or largest_shape(cards[0].total if device == "cuda" else 0)
    fast = device == "cuda" and is_flash_attn_2_available()
    return Setting(shape, device, "flash_attention_2" if fast else "sdpa", given.steps)


def largest_shape(card: int) -> str:
    """The largest shape for a card of so many bytes; 0: there is none."""
    if not card:
        return "tiny"
    return [name for name, shape in SHAPES.items() if shape.card_gib * 2**30 <= card][-1]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    setting = read_setting(sys.argv[1:])
    # One card; TRL would spread a batch over all that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    result = asdict(setting) | measure_all(setting)
    sys.stdout.write(json.dumps(rounded(result)) + "\n")
    sys.exit(any(str(value).startswith("failed") for value in result.values()))


if __name__ == "__main__":
    main()

"""A training in seconds: a random Llama, a tokenizer that ships, users of the simulated world.

As a script, on one process or under torchrun, it trains and resumes by itself, and leaves
`result.pt`: weights, gradients of each step, losses.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from alignxplore_trl.cases import decode_signals
from alignxplore_trl.data.rounds import round_rows
from alignxplore_trl.data.world import World
from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget
from alignxplore_trl.text.completions import Inference, format_completion
from alignxplore_trl.text.prompts import Prompts
from alignxplore_trl.training.callbacks import train
from alignxplore_trl.training.cold_start import ColdStartConfig, ColdStartTrainer, fit_examples
from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer

ROOT = Path(__file__).parents[2]
# The environment with vLLM and DeepSpeed, which `make test-slow` makes.
WHOLE = (ROOT / ".venv-vllm").resolve() / "bin" / "python"
# Of a training whose rollouts are by vLLM, in the training's process.
VLLM = {
    "kind": "sampled", "rounds": 1, "max_steps": 3, "bf16": True, "save_strategy": "no",
    "use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 512,
    "vllm_gpu_memory_utilization": 0.1, "vllm_importance_sampling_mode": "token_truncate",
}  # fmt: skip
PROMPTS = Prompts("compact")
BUDGET = 300


@cache
def world_cases() -> list[Any]:
    return World({"rl": 16}, rounds=3, signals=2).cases(Counter(), seed=1)["rl"]


@cache
def tokenizer() -> Any:
    """Byte-level, so that no text is unknown to it; the tags are ordinary words of it."""
    return AutoTokenizer.from_pretrained(ROOT / "assets" / "backbone")


def model(**changes: Any) -> LlamaForCausalLM:
    """Two layers of width 64; heads of 32, which vLLM's attention on the CPU takes."""
    torch.manual_seed(0)
    config = {
        "vocab_size": len(tokenizer()), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "initializer_range": 0.125, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**config | changes))


@cache
def budget(max_tokens: int = BUDGET) -> PromptBudget:
    return PromptBudget(PROMPTS, tokenizer(), max_tokens)


def prompt_with(row: Mapping[str, Any], earlier: str) -> FittedPrompt:
    return budget().fit("inference", decode_signals(row["signals"]), earlier)


def rows(cases: int, rounds: int, fewer: int = 0) -> Dataset:
    """Rows of world users with two signals a round; the last `fewer` have one round less."""
    drawn = world_cases()[:cases]
    whole = round_rows(drawn[: cases - fewer], 2, rounds, budget()).rows
    return Dataset.from_list(
        whole + round_rows(drawn[cases - fewer :], 2, rounds - 1, budget()).rows
    )


def number_of(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def reward(completions: list[str], case_id: list[str], **columns: Any) -> list[float | None]:
    """0, 1 or, for one in eight, `None`: a function of the case and the completion's text."""
    numbers = [number_of(case, text) for case, text in zip(case_id, completions, strict=True)]
    return [None if number % 8 == 7 else float(number % 2) for number in numbers]


class WritingTrainer(RoundsTrainer):
    """Completions are a function of the prompt and the place in the group, on any process count."""

    def _generate_single_turn(self, prompt_ids, *arguments, **named):
        first = self.accelerator.process_index * len(prompt_ids)
        texts = [
            written(tokenizer().decode(ids), place % self.args.num_generations)
            for place, ids in enumerate(prompt_ids, first)
        ]
        return [ended(text) for text in texts], None


class FramingTrainer(RoundsTrainer):
    """Puts what the policy sampled between the tags: a random policy is well-formed, mostly."""

    def _generate_single_turn(self, *arguments, **named):
        sampled, logprobs = super()._generate_single_turn(*arguments, **named)
        return [ids if sum(ids) % 4 == 0 else framed(ids) for ids in sampled], logprobs


def framed(ids: list[int]) -> list[int]:
    text = tokenizer().decode(ids, skip_special_tokens=True)
    return ended(format_completion(Inference("seen", f"prefers {text}")))


def ended(text: str) -> list[int]:
    """What is malformed was cut off."""
    end = [tokenizer().eos_token_id] if text.endswith("</answer>") else []
    return tokenizer()(text).input_ids + end


def written(prompt: str, place: int) -> str:
    """Under one prompt in three, nothing is well-formed."""
    number = number_of(prompt, place)
    if number % 4 == 0 or number_of(prompt) % 3 == 0:
        return f" no end {number % 97}"
    return format_completion(Inference(f"seen {number % 7}", f"prefers <post> style {number % 89}"))


TRAINERS = {"sampled": RoundsTrainer, "framed": FramingTrainer, "written": WritingTrainer}


def arguments(kind: type, folder: str, **changes: Any) -> Any:
    values = {
        "output_dir": folder, "learning_rate": 1e-2, "max_grad_norm": 0.0, "logging_steps": 1,
        "save_steps": 1, "save_total_limit": 2, "seed": 3, "use_cpu": True, "bf16": False,
        "report_to": "none", "disable_tqdm": True, "gradient_checkpointing": False,
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None,
    }  # fmt: skip
    if kind is RoundsConfig:
        values |= {
            "num_generations": 4, "max_completion_length": 16, "loss_type": "grpo", "beta": 0.0,
            "completions_every": 1, "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
        }  # fmt: skip
    return kind(**values | changes)


def rl(
    folder: str,
    *,
    kind: str = "written",
    cases: int = 9,
    fewer: int = 0,
    rounds: int = 2,
    reward: Any = reward,
    policy: Any = None,
    peft_config: Any = None,
    **changes: Any,
) -> RoundsTrainer:
    return TRAINERS[kind](
        policy or model(),
        reward,
        arguments(RoundsConfig, folder, **changes),
        rows(cases, rounds, fewer),
        tokenizer(),
        prompt_with=prompt_with,
        rounds=rounds,
        peft_config=peft_config,
    )


def examples(count: int) -> list[dict[str, str]]:
    """Completions whose lengths differ by a factor of ten."""
    return [
        {"prompt": row["prompt"], "completion": " seen" * (1 + 3 * (i % 4)) + f" {i} </answer>"}
        for i, row in enumerate(rows(count, 1))
    ]


def cold_start(folder: str, *, count: int = 10, **changes: Any) -> ColdStartTrainer:
    args = arguments(ColdStartConfig, folder, **{"num_train_epochs": 1, **changes})
    data, _ = fit_examples(examples(count), tokenizer(), max_length=400)
    return ColdStartTrainer(model(), args, data, processing_class=tokenizer())


class Gradients(TrainerCallback):
    """Keeps each step's gradients, averaged over processes."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        named = getattr(model, "module", model).named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


class Kill(TrainerCallback):
    """SIGKILL after the completions of an update, before its step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **rest):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(trainer: Any, step: int) -> None:
    save = trainer._save_optimizer_and_scheduler

    def save_or_die(folder: str) -> None:
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(folder)

    trainer._save_optimizer_and_scheduler = save_or_die


def launch(
    what: str,
    folder: Path,
    config: str = "cpu",
    processes: int = 1,
    python: Path = Path(sys.executable),
    **run: Any,
) -> subprocess.CompletedProcess[str]:
    """Run this file with `rl` or `cold_start`, by a file of conf/accelerate but on the CPU."""
    values = yaml.safe_load((ROOT / f"conf/accelerate/{config}.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "accelerate.yaml"
    file.write_text(
        yaml.safe_dump(values | {"use_cpu": run.get("use_cpu", True), "num_processes": processes})
    )
    several = ["--multi_gpu"] if config == "cpu" and processes > 1 else []
    command = [
        str(python), "-m", "accelerate.commands.launch", "--config_file", str(file),
        "--num_cpu_threads_per_process", "1", *several, __file__, what,
        json.dumps({"folder": str(folder), **run}),
    ]  # fmt: skip
    here = {
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(ROOT / "src"), "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCH_EXTENSIONS_DIR": str(WHOLE.parents[1] / "extensions"),
    }  # fmt: skip
    around = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    with subprocess.Popen(
        command, env={**around, **here}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as started:  # fmt: skip
        try:
            output, _ = started.communicate(timeout=500)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, started.returncode, output)


def result(what: str, folder: Path, *arguments: Any, **run: Any) -> dict[str, Any]:
    finished = launch(what, folder, *arguments, **run)
    assert finished.returncode == 0, finished.stdout[-3000:]
    found: dict[str, Any] = torch.load(folder / "result.pt")
    return found


def main() -> None:
    what, run = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    kill, save = run.pop("kill", -1), run.pop("kill_in_save", -1)
    judge = run.pop("judge", None)
    before = lora_with_vllm(run) if run.get("use_vllm") else {}
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    trainer = {"rl": rl, "cold_start": cold_start}[what](**run)
    if judge is not None:  # A judge is whole on each process, whatever shards the policy.
        assert all(weight.numel() for weight in load_model(judge, "float32").parameters())
    trainer.add_callback(Kill(kill))
    kill_in_save(trainer, save)
    train(trainer, getattr(trainer.args, "steps_per_checkpoint", 1))
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped, unwrap=True)
    moved = [(weights[name] - value).abs().max().item() for name, value in before.items()]
    if trainer.is_world_process_zero():
        kept = {"weights": weights, "log": trainer.state.log_history, "moved": moved}
        kept["launched"] = trainer.accelerator.distributed_type.value
        torch.save(kept, Path(run["folder"]) / "result.pt")


def shard_on_cpu() -> None:
    """accelerate shards by FSDP only what it takes for GPUs."""
    made = Accelerator.__init__

    def make(self: Accelerator, *arguments: Any, **named: Any) -> None:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        made(self, *arguments, **named)

    Accelerator.__init__ = make


def lora_with_vllm(run: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Adapters on a bfloat16 model that vLLM rolls out; the base weights before the training."""
    if run.get("use_cpu", True):
        from vllm import _custom_ops

        _custom_ops._supports_onednn = False  # It would pack weights, which can't be loaded again.
    folder = Path(run["folder"]) / "policy"
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    policy = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    run |= {"policy": policy, "peft_config": LoraConfig(r=8, target_modules="all-linear")}
    return {
        "base_model.model."
        + name.replace("_proj.weight", "_proj.base_layer.weight"): weight.detach().clone()
        for name, weight in policy.named_parameters()
    }


if __name__ == "__main__":
    main()

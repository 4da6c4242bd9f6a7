"""What a step of GRPO costs on a CPU as its prompt grows.

    python benchmarks/prompt_length.py [tokens …]

One prompt of eight comparisons, whose texts are as long as fits into so many tokens (1,024, 2,048,
4,096 and 8,192 by default), four rollouts of at most 48 tokens, and the stand-in of
DeepSeek-R1-Distill-Qwen-7B: its vocabulary and architecture, two layers of width 64, in float32 on
one thread. The prompt is computed once, or for each rollout; each in a process of its own. The last
line is one JSON object: CPU seconds and peak memory in GiB, loading left out of the seconds.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignxplore_trl.text.budget import PromptBudget

ROOT = Path(__file__).parents[1]
FAMILY = "deepseek-r1-distill-qwen-7b"


def prompt_of(budget: PromptBudget) -> str:
    """Eight comparisons of texts of equal length, the longest that fit whole."""
    from alignxplore_trl.cases import Comparison

    words = (ROOT / "LICENSE").read_text("utf-8").split()
    longest = ""
    for length in range(10, len(words), 10):
        text = " ".join(words[:length])
        pairs = [Comparison(f"{n} {text}", f"a {text}", f"b {text}") for n in range(8)]
        fitted = budget.fit("inference", pairs)
        if fitted.dropped_signals:
            break
        longest = fitted.text
    return longest


def measure(tokens: int, share: bool, folder: str) -> dict[str, float]:
    """One step; what it took."""
    import torch
    from datasets import Dataset

    from alignxplore_trl.text.budget import PromptBudget
    from alignxplore_trl.text.prompts import Prompts
    from alignxplore_trl.training.models import load_policy, policy_tokenizer
    from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer

    torch.set_num_threads(1)
    tokenizer = policy_tokenizer(folder)
    budget = PromptBudget(Prompts("default"), tokenizer, tokens)
    prompt = prompt_of(budget)
    args = RoundsConfig(
        folder, max_steps=1, num_generations=4, per_device_train_batch_size=4, report_to="none",
        max_completion_length=48, use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, share_prompts=share,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": prompt, "case_id": "1", "round": 1}])
    trainer = RoundsTrainer(
        load_policy(folder, "float32", "sdpa", None, args, adapters=False),
        lambda completions, **_: [float(n % 2) for n in range(len(completions))],
        args, rows, tokenizer, rounds=1, prompt_with=lambda *_: budget.fit("inference", []),
    )  # fmt: skip
    began = time.process_time()
    trainer.train()
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"tokens": budget.count(prompt), "cpu_seconds": seconds, "peak_gib": peak}


def main(lengths: list[int]) -> None:
    """Measure each length both ways."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        made = [sys.executable, str(ROOT / "rehearsal/stand_ins.py"), FAMILY, folder]
        subprocess.run(made, check=True, capture_output=True)
        for tokens in lengths:
            for share in ("once", "each"):
                own = [sys.executable, __file__, "--one", str(tokens), share, folder]
                said = subprocess.run(own, check=True, capture_output=True, text=True).stdout
                found[f"{tokens}/{share}"] = json.loads(said.splitlines()[-1])
                sys.stdout.write(f"{tokens} {share}: {found[f'{tokens}/{share}']}\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.stdout.write(json.dumps(measure(int(sys.argv[2]), sys.argv[3] == "once", sys.argv[4])))
    else:
        main([*map(int, sys.argv[1:])] or [1024, 2048, 4096, 8192])

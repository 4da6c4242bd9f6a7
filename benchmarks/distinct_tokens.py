"""What is gained where texts that begin alike are computed once, against computing each whole.

    python benchmarks/distinct_tokens.py [--only update_tiny,judge_both] [--repeats 3]

On a CPU: models with random weights in float32, CPU time on one thread, both ways in turn, the
least of the repeats, so that other load doesn't decide. On a GPU: Qwen2.5's shapes of 0.5B and 7B
in bfloat16, by CUDA events. The last line is one JSON object. Ratios are plain / shared time:

    update_1200_4x800, …       TRL's forward and backward pass of a group of rollouts: prompt, and
                               the lengths of its completions (unequal: 800, 600, 400, 200)
    update_tiny                16 groups at SCALE=tiny
    judge_both                 800 shared tokens, and two orders of 430
    r_gen                      800 shared tokens, and two replies of 430
    former_…                   16 cases of 4 rollouts with instructions 400, post 150, description
                               250, replies 200: one order, both, the description last, R_gen

    update_memory              peak memory of an update, shared / plain; …_of_one: beside plain
                               passes of one sequence at a time
    logprob_difference         of log-probabilities from those of TRL's own path, of their size
    gradient_difference        of a parameter's gradient, of its size, at most
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config
from trl import GRPOConfig

from alignxplore_trl.judging.asking import Text
from alignxplore_trl.judging.reading import Reader
from alignxplore_trl.training.share_prompts import SharesPrompts

GPU = torch.cuda.is_available()
VOCABULARY = 2048
SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4,
         "num_attention_heads": 6, "num_key_value_heads": 6}  # fmt: skip
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
HALF_B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
          "num_attention_heads": 14, "num_key_value_heads": 2}  # fmt: skip
SEVEN_B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
           "num_attention_heads": 28, "num_key_value_heads": 4}  # fmt: skip
# Name: shape of the model, number of groups, tokens of the prompt, and of each completion.
UPDATES: dict[str, tuple[dict[str, int], int, int, list[int]]] = {
    "update_1200_4x800": (SMALL, 1, 1200, [800] * 4),
    "update_1200_unequal": (SMALL, 1, 1200, [800, 600, 400, 200]),
    "update_4000_4x500": (SMALL, 1, 4000, [500] * 4),
    "update_tiny": (TINY, 16, 100, [55] * 4),
}
if GPU:
    UPDATES = {
        f"update_{name}_{prompt}_4x1024": (shape, 1, prompt, [1024] * 4)
        for name, shape in (("0.5b", HALF_B), ("7b", SEVEN_B))
        for prompt in (2048, 8192)
    }
MEMORY = next(iter(UPDATES))
Step = Callable[[], object]


def random_model(shape: dict[str, int]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(**shape, vocab_size=VOCABULARY, max_position_embeddings=16384)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if GPU else None)
    model.to("cuda" if GPU else "cpu")
    return model


def words(draw: random.Random, count: int) -> list[int]:
    return draw.choices(range(3, VOCABULARY), k=count)


class Update:
    """The two ways of an update, each by the methods with which the trainer makes it."""

    def __init__(self, name: str, folder: str) -> None:
        shape, groups, prompt, self.lengths = UPDATES[name]
        made = Tokenizer(WordLevel({"?": 0, "<pad>": 1}, "?"))
        self.trainer = SharesPrompts(
            model=random_model(shape),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=_arguments(folder, len(self.lengths)),
            train_dataset=Dataset.from_dict({"prompt": ["?"] * 4}),
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=made, pad_token="<pad>", eos_token="?"
            ),
        )
        self.model = self.trainer.model.train()
        draw, longest = random.Random(0), max(self.lengths)
        rows, masks = [], []
        for _ in range(groups):
            shared = words(draw, prompt)
            for length in self.lengths:
                rows.append([*shared, *words(draw, length), *[1] * (longest - length)])
                masks.append([1] * (prompt + length) + [0] * (longest - length))
        self.ids, self.mask = (torch.tensor(own, device=self.model.device) for own in (rows, masks))
        assert not self.trainer._why_plain()

    def __call__(self, shared: bool, size: int | None = None) -> torch.Tensor:
        """Gradients of the mean log-probability, in micro-batches of so many sequences."""
        self.trainer.shares, kept = shared, max(self.lengths)
        self.model.zero_grad()
        found = []
        for ids, mask in zip(
            *(t.split(size or len(t)) for t in (self.ids, self.mask)), strict=True
        ):
            log_probs, *_ = self.trainer._get_per_token_logps_and_entropies(
                self.model, ids, mask, kept
            )
            own = mask[:, -kept:]
            ((log_probs * own).sum() / self.mask[:, -kept:].sum()).backward()
            found.append((log_probs * own).detach())
        return torch.cat(found)


def _arguments(folder: str, group: int) -> Any:
    values = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=group,
        num_generations=group,
        use_cpu=not GPU,
        report_to="none",
        bf16=False,
    )
    values.share_prompts = True  # type: ignore[attr-defined]
    return values


def seconds(step: Step) -> float:
    if not GPU:
        started = time.process_time()
        step()
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def ratio(plain: Step, shared: Step, repeats: int) -> float:
    """Times of both in turn, after one pass that isn't counted where passes are short."""
    if GPU or seconds(shared) < 1:
        plain()
        shared()
    times = [(seconds(plain), seconds(shared)) for _ in range(repeats)]
    return min(own[0] for own in times) / min(own[1] for own in times)


def readings() -> dict[str, list[Text]]:
    """Texts of judges and generators: the letter's position of a question, a whole reply."""
    draw = random.Random(0)

    def question(*parts: list[int]) -> Text:
        return Text(tuple(token for part in parts for token in part), ((3, 4),))

    def reply(prompt: list[int], own: list[int]) -> Text:
        return Text((*prompt, *own[:-1]), tuple((token,) for token in own))

    found: dict[str, list[Text]] = {
        name: []
        for name in ("judge_both", "r_gen", "former_one_order", "former_both",
                     "former_description_last", "former_r_gen")
    }  # fmt: skip
    for _ in range(4):
        start, one, other = words(draw, 800), words(draw, 430), words(draw, 430)
        found["judge_both"] += [question(start, own) for own in (one, other)]
        found["r_gen"] += [reply(start, own) for own in (one, other)]
    instructions = words(draw, 400)
    for _ in range(16):
        post, a, b = words(draw, 150), words(draw, 200), words(draw, 200)
        for description in (words(draw, 250) for _ in range(4)):
            start = instructions + description + post
            found["former_one_order"].append(question(start, a, b))
            found["former_both"] += [question(start, a, b), question(start, b, a)]
            found["former_description_last"].append(question(instructions, post, a, b, description))
            found["former_r_gen"] += [reply(start, own) for own in (a, b)]
    return found


def _peak(shared: bool, size: int | None, results: Any) -> None:
    """Bytes that one update needs beside weights, in a process of its own."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        update = Update(MEMORY, folder)
        if GPU:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            update(shared, size)
            results.put(torch.cuda.max_memory_allocated() - before)
            return
        status = Path("/proc/self/status")
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
        before = _kilobytes(status.read_text(), "VmRSS")
        update(shared, size)
        results.put((_kilobytes(status.read_text(), "VmHWM") - before) * 1024)


def _kilobytes(status: str, name: str) -> int:
    return int(status.partition(f"{name}:")[2].split()[0])


def peak_memory(shared: bool, size: int | None = None) -> int:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_peak, args=(shared, size, results))
    process.start()
    process.join()
    return int(results.get())


def differences(update: Update) -> dict[str, float]:
    """Of log-probabilities and gradients of the shared pass from TRL's own."""
    found = []
    for shared in (True, False):
        log_probs = update(shared)
        found.append((log_probs, [own.grad.clone() for own in update.model.parameters()]))
    (one, ours), (other, theirs) = found
    off = [(a - b).norm() / b.norm() for a, b in zip(ours, theirs, strict=True) if b.norm() > 0]
    return {
        "logprob_difference": ((one - other).norm() / other.norm()).item(),
        "gradient_difference": max(off).item(),
    }


def measure(wanted: Callable[[str], bool], repeats: int) -> dict[str, float]:
    found: dict[str, float] = {}

    def keep(**values: float) -> None:
        found.update(values)
        sys.stderr.write(f"{values}\n")

    for name in filter(wanted, UPDATES):
        with TemporaryDirectory() as folder:
            update = Update(name, folder)
            keep(**{name: ratio(lambda u=update: u(False), lambda u=update: u(True), repeats)})
            if name == MEMORY:
                keep(**differences(update))
    texts = {name: own for name, own in readings().items() if wanted(name)}
    for name, own in texts.items():
        shared, plain = (Reader(random_model(HALF_B if GPU else SMALL).eval(), 16384) for _ in "ab")
        assert shared.shares
        plain.shares = False
        keep(
            **{
                name: ratio(
                    lambda r=plain, t=own: r.read(t), lambda r=shared, t=own: r.read(t), repeats
                )
            }
        )
    if wanted("update_memory"):
        shared_peak = peak_memory(True)
        keep(update_memory=shared_peak / peak_memory(False))
        keep(update_memory_of_one=shared_peak / peak_memory(False, size=1))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = set(options.only.split(",")) - {""}
    found = measure(lambda name: not names or name in names, options.repeats)
    sys.stdout.write(json.dumps({name: round(value, 8) for name, value in found.items()}) + "\n")


if __name__ == "__main__":
    main()

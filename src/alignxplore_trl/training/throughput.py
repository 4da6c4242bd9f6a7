"""How fast a training is: tokens per second, MFU and the judge's share of the time.

FLOPs are those of PaLM (arXiv:2204.02311, appendix B) of the tokens that are trained on, padding
left out: 4 N a token, 2 more for each trained parameter, and 12 x layers x width x length^2 of
attention. TRL's own timings (`profiling/Time taken`, in W&B) say where the rest of a step went.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import mul
from typing import Any

import torch
from torch import nn
from transformers import Trainer

# Words of a card's name -> TFLOP/s in bfloat16 of dense matrices, by NVIDIA's data sheets.
PEAK_TFLOPS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "A10": 125,
}  # fmt: skip


class Throughput:
    """Counts what all processes of a trainer do between two lines of its log."""

    def __init__(self, trainer: Trainer) -> None:
        self.accelerator = trainer.accelerator
        model: Any = trainer.model
        device = self.accelerator.device
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        # A table is only looked up, unless the output layer shares it.
        tables.discard(id(getattr(model.get_output_embeddings(), "weight", None)))
        counted = [weight for weight in model.parameters() if id(weight) not in tables]
        # ZeRO-3 keeps the size of a weight beside the process's part of it.
        sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in counted]
        trained = [6 if weight.requires_grad else 4 for weight in counted]
        self.per_token = sum(map(mul, sizes, trained))
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.per_square = 12 * config.num_hidden_layers * heads * width
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if name in card), None)
        # Tokens and FLOPs, on the device, so that counting doesn't wait for it.
        self.done = torch.zeros(2, dtype=torch.float64, device=device)
        self.judging, self.since = 0.0, time.perf_counter()

    def count(self, lengths: torch.Tensor, shared: torch.Tensor | None = None) -> None:
        """Count this process's sequences; `shared` tokens of them were computed with another's."""
        flops = (self.per_token * lengths + self.per_square * lengths.double().square()).sum()
        if shared is not None:
            flops -= (self.per_token * shared + self.per_square * shared.double().square()).sum()
        self.done += torch.stack([lengths.sum().double(), flops])

    @contextmanager
    def judge(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.judging += time.perf_counter() - begun

    def measured(self) -> dict[str, float]:
        """Rates since this was last called; all processes call it."""
        seconds = time.perf_counter() - self.since
        tokens, flops = self.accelerator.reduce(self.done).tolist()
        found = {"tokens_per_second": tokens / seconds, "judge_share": self.judging / seconds}
        if self.peak:
            found["mfu"] = flops / (seconds * self.peak * self.accelerator.num_processes)
        self.done.zero_()
        self.judging, self.since = 0.0, time.perf_counter()
        return {f"throughput/{name}": value for name, value in found.items()}

"""How fast a training is: tokens per second, MFU and the judge's share of the time.

FLOPs are those of PaLM (arXiv:2204.02311, appendix B), of tokens that are there, without padding:
a token takes 4 N in the forward and backward pass and 2 more for each trained parameter, attention
12 x layers x width x the squared length. What the policy writes takes time, and counts for no FLOPs.
TRL's own timings (`profiling/Time taken`, in W&B) say where the time of a step went.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import Trainer

# Words of a card's name -> TFLOP/s in bfloat16 of dense matrices, from NVIDIA's data sheets.
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "A10": 125,
}


class Throughput:
    """Counts what a trainer does between two lines of its log."""

    def __init__(self, trainer: Trainer) -> None:
        self.accelerator = trainer.accelerator
        device, model = self.accelerator.device, trainer.model
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        head = model.get_output_embeddings()
        # A table of embeddings is only looked up, unless the output layer shares it.
        looked_up -= {id(head.weight)} if head is not None else set()
        sizes = [(_size(p), p.requires_grad) for p in model.parameters() if id(p) not in looked_up]
        self.parameters = sum(size for size, _ in sizes)
        self.trained = sum(size for size, trains in sizes if trains)
        config = model.config.get_text_config()
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.attention = config.num_hidden_layers * config.num_attention_heads * width
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = next((1e12 * peak for card, peak in PEAK_TFLOPS.items() if card in name), None)
        # On the device, so that counting doesn't wait for it: tokens, FLOPs, tokens written.
        self.counted = torch.zeros(3, dtype=torch.float64, device=device)
        self.judging, self.since = 0.0, time.perf_counter()

    def count(self, lengths: torch.Tensor, shared: torch.Tensor | None = None) -> None:
        """Count sequences of this process that are trained on.

        Args:
            lengths: their tokens.
            shared: tokens of them that were computed with another sequence's, once for both.
        """
        own = torch.stack([lengths.sum(), lengths.double().square().sum()])
        computed = (
            own
            if shared is None
            else own - torch.stack([shared.sum(), shared.double().square().sum()])
        )
        weights = 4 * self.parameters + 2 * self.trained
        self.counted[0] += own[0]
        self.counted[1] += weights * computed[0] + 12 * self.attention * computed[1]

    def count_written(self, completions: Sequence[Sequence[int]]) -> None:
        """Count what this process's policy has written, in token ids."""
        self.counted[2] += sum(map(len, completions))

    @contextmanager
    def judge(self) -> Iterator[None]:
        """What is inside is the judge's time."""
        begun = time.perf_counter()
        yield
        self.judging += time.perf_counter() - begun

    def measured(self) -> dict[str, float]:
        """Rates since this was last called, of all processes together; all have to call it."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        tokens, flops, written = self.accelerator.reduce(self.counted).tolist()
        found = {"tokens_per_second": tokens / seconds}
        if written:
            found["generated_tokens_per_second"] = written / seconds
            found["share_of_judge"] = self.judging / seconds
        if self.peak:
            found["mfu"] = flops / (self.peak * self.accelerator.num_processes * seconds)
        self.counted.zero_()
        self.judging, self.since = 0.0, time.perf_counter()
        return {f"throughput/{key}": value for key, value in found.items()}


def _size(parameter: nn.Parameter) -> int:
    # Under ZeRO-3 a process holds a part, which numel() counts; DeepSpeed keeps the whole size.
    return int(getattr(parameter, "ds_numel", parameter.numel()))

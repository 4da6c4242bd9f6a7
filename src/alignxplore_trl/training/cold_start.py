"""Supervised cold start: the mean over examples of each completion's token mean (METHOD 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.throughput import Throughput

IGNORED = -100


@dataclass
class ColdStartConfig(SFTConfig):
    """The fields of `SFTConfig`, and which of the teacher's completions are learned."""

    examples: Literal["verified", "unverified"] = field(
        default="verified",
        metadata={"help": "The verified ones, or as many drawn from all well-formed ones."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # `fit_examples` has prepared it.
        self.dataset_kwargs = {"skip_prepare_dataset": True, **(self.dataset_kwargs or {})}
        # Each of these makes the loss another one, or cuts examples.
        off = {
            "packing": False,
            "padding_free": False,
            "label_smoothing_factor": 0.0,
            "loss_type": "nll",
            "eval_strategy": "no",
            "save_total_limit": self.save_total_limit if self.save_total_limit != 1 else 2,
        }
        wrong = [
            f"{n}={getattr(self, n)}, expected {v}" for n, v in off.items() if getattr(self, n) != v
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


def fit_examples(
    examples: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """Tokenise examples, leaving out those of more than `max_length` tokens.

    The prompt is masked; the completion and an end-of-text token after it are learned. The two are
    tokenised apart, because tokens could merge across the border and generation won't see such ones.
    Nothing is truncated: half a completion would teach not to finish.

    Args:
        examples: each with a `prompt` and a `completion`, the end-of-text token not included.

    Returns:
        A dataset with `input_ids` and `labels`, and counts: `examples`, `kept`, `too_long` and
        `longest` (tokens, of any example).

    Raises:
        UserError: the tokenizer has no end-of-text token, or no example fits.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model.backbone: its tokenizer has no eos_token, but cold start teaches the model to end "
            "on one; set eos_token in its tokenizer_config.json"
        )
    rows, longest, count = [], 0, 0
    for count, example in enumerate(examples, 1):
        read = tokenizer(example["prompt"]).input_ids
        written = tokenizer(example["completion"], add_special_tokens=False).input_ids
        written = [*written, tokenizer.eos_token_id]
        longest = max(longest, len(read) + len(written))
        if len(read) + len(written) <= max_length:
            rows.append({"input_ids": read + written, "labels": [IGNORED] * len(read) + written})
    if not rows:
        raise UserError(
            f"cold_start.max_length: {max_length} tokens found, and none of {count} examples fits (the "
            f"longest has {longest}); raise it, or see that the synthesis kept examples"
        )
    counts = {
        "examples": count,
        "kept": len(rows),
        "too_long": count - len(rows),
        "longest": longest,
    }
    return Dataset.from_list(rows), counts


class ColdStartTrainer(SFTTrainer):
    """`SFTTrainer` with the loss `1/N Σ_i 1/(|r_i|+|d_i|) Σ_t -log p(token_t)`.

    N counts the examples of the whole accumulated global batch: of all processes and micro-batches
    of an optimizer step, a short last step included.

    Args:
        train_dataset: as `fit_examples` makes it.
        Others as for `SFTTrainer`.
    """

    def __init__(
        self, model: Any, args: ColdStartConfig, train_dataset: Dataset, **rest: Any
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, **rest)
        # `compute_loss` divides by the examples of all accumulation steps; Trainer must not again.
        self.model_accepts_loss_kwargs = True
        self.throughput = Throughput(self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The micro-batches of an optimizer step, and the examples in it over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(own).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The share of a micro-batch in the loss, a scalar."""
        passes: list[Any] = []

        def remembering(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        # TRL's token mean is not used; what it logs beside it (entropy, token accuracy) is.
        super().compute_loss(remembering, inputs, num_items_in_batch=num_items_in_batch)
        self.throughput.count(inputs["attention_mask"].sum(1))
        losses = -passes[0].log_probs.sum(1) / passes[0].label_mask.sum(1).clamp(min=1)
        # Gradients are averaged over processes, but N counts the examples of all.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def train(self, resume_from_checkpoint: str | None = None, **rest: Any) -> Any:
        """As Trainer's; a run that had ended before it was killed takes no further step."""
        if resume_from_checkpoint and _steps(resume_from_checkpoint) >= self.args.max_steps > 0:
            # With one row, an epoch is one step, and so many epochs have been trained already.
            self.train_dataset = self.train_dataset.select([0])
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **rest)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the throughput since the line before."""
        super().log(logs | self.throughput.measured() if "loss" in logs else logs, start_time)


def _steps(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])

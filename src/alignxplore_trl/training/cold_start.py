"""Supervised cold start: the mean over examples of each completion's token mean (METHOD 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.throughput import Throughput


@dataclass
class ColdStartConfig(SFTConfig):
    """The fields of `SFTConfig`, and ours.

    Attributes:
        examples: the verified completions, or, for comparison, as many drawn from all well-formed.

    Raises:
        ValueError: TRL refuses a value, or it would change the loss or cut examples.
    """

    examples: Literal["verified", "unverified"] = "verified"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # `fit_examples` prepares it.
        off = dict.fromkeys(("packing", "padding_free", "label_smoothing_factor"), False)
        refuse_others(self, {**off, "loss_type": "nll", "eval_strategy": "no"})


def refuse_others(args: Any, expected: Mapping[str, object]) -> None:
    """Refuse values of a trainer's arguments under which its loss or a resume would be wrong.

    Raises:
        ValueError: one isn't as expected, or checkpoints aren't taken as `callbacks` needs it.
    """
    given = {name: (getattr(args, name), value) for name, value in expected.items()}
    wrong = [
        f"{n}={found}, expected {value}" for n, (found, value) in given.items() if found != value
    ]
    if args.save_strategy not in ("no", "steps"):
        wrong.append(f"save_strategy={args.save_strategy.value}, expected steps or no")
    if args.save_total_limit == 1:
        wrong.append(
            "save_total_limit=1, expected 2 or more: a kill while saving needs another one"
        )
    if wrong:
        raise ValueError("; ".join(wrong))


def fit_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """Tokenise examples, leaving out those of more than `max_length` tokens.

    `prompt` is masked; `completion` and an end-of-text token are learned. They are tokenised apart,
    since tokens that merge across the border don't occur when a completion is generated. Nothing is
    cut: half a completion would teach not to finish.

    Returns:
        A dataset with `input_ids` and `labels`, and counts; `longest` is of any example, in tokens.

    Raises:
        UserError: the tokenizer has no end-of-text token, or no example fits.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "model.backbone: its tokenizer has no eos_token, on which a completion is taught to "
            "end; set eos_token in its tokenizer_config.json"
        )
    rows, longest = [], 0
    for example in examples:
        read = tokenizer(example["prompt"]).input_ids
        written = [*tokenizer(example["completion"], add_special_tokens=False).input_ids, end]
        longest = max(longest, len(read) + len(written))
        if len(read) + len(written) <= max_length:
            rows.append({"input_ids": read + written, "labels": [-100] * len(read) + written})
    if not rows:
        raise UserError(
            f"cold_start.max_length: {max_length} tokens found, but none of {len(examples)} "
            f"examples fits (the longest has {longest}); raise it, or synthesize more"
        )
    count = len(examples)
    counts = {"examples": count, "kept": len(rows), "too_long": count - len(rows)}
    return Dataset.from_list(rows), counts | {"longest": longest}


class ColdStartTrainer(SFTTrainer):
    """`SFTTrainer` with the loss `1/N Σ_i 1/(|r_i|+|d_i|) Σ_t -log p(token_t)`.

    N counts the examples of the whole accumulated global batch: of all processes and micro-batches
    of an optimizer step. Arguments are those of `SFTTrainer`, the dataset that of `fit_examples`.
    """

    def __init__(self, model: Any, args: ColdStartConfig, train_dataset: Dataset, **rest: Any):
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
        """A micro-batch's part of the loss, a scalar."""
        passes: list[Any] = []

        def remembering(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        # TRL's token mean isn't used; what it logs beside it is.
        super().compute_loss(remembering, inputs, num_items_in_batch=num_items_in_batch)  # type: ignore[no-untyped-call]
        self.throughput.count(inputs["attention_mask"].sum(1))
        losses: torch.Tensor = -passes[0].log_probs.sum(1) / passes[0].label_mask.sum(1).clamp(
            min=1
        )
        assert num_items_in_batch is not None  # Of evaluations, which are refused.
        # Gradients are averaged over processes, but N counts the examples of all.
        loss: torch.Tensor = losses.sum() / num_items_in_batch * self.accelerator.num_processes
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the throughput since the line before."""
        super().log(logs | self.throughput.measured() if "loss" in logs else logs, start_time)

"""Supervised cold start: the mean over examples of each completion's token mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.training.checkpoints import CompleteCheckpoints
from alignxplore_trl.training.labels import label_tokens
from alignxplore_trl.training.throughput import MeasuresThroughput


def fit_examples(
    examples: Iterable[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """Tokenise examples, leaving out and counting those that are too long.

    See `label_tokens` for what is masked. Nothing is truncated: half a completion would teach not
    to finish.

    Args:
        examples: each with a `prompt` and a `completion`, the end-of-text token not included.
        max_length: the most tokens of prompt, completion and end-of-text token together.

    Returns:
        A data set with `input_ids` and `labels` (-100 on the prompt) as `ColdStartTrainer` takes
        it, and counts: `examples`, `kept`, `too_long`, `longest` (tokens, of any example).

    Raises:
        UserError: the tokenizer has no end-of-text token, or no example fits.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model.backbone: its tokenizer has no eos_token, but cold start teaches the model to "
            "end on one; set eos_token in the tokenizer's tokenizer_config.json"
        )
    rows: list[dict[str, list[int]]] = []
    lengths: list[int] = []
    for example in examples:
        tokens = label_tokens(example["prompt"], example["completion"], tokenizer)
        lengths.append(len(tokens.input_ids))
        if lengths[-1] <= max_length:
            rows.append({"input_ids": tokens.input_ids, "labels": tokens.labels})
    if not rows:
        raise UserError(
            f"trainer.max_length: {max_length} tokens found, but the shortest of {len(lengths)} "
            f"cold-start examples has {min(lengths, default=0)}; give examples, or raise it"
        )
    counts = {
        "examples": len(lengths),
        "kept": len(rows),
        "too_long": len(lengths) - len(rows),
        "longest": max(lengths),
    }
    return Dataset.from_list(rows), counts


class ColdStartTrainer(CompleteCheckpoints, MeasuresThroughput, SFTTrainer):
    """`SFTTrainer` with the loss of METHOD 3.5: `1/N Σ_i 1/(|r_i|+|d_i|) Σ_t -log p(token_t)`.

    N counts the examples of the whole accumulated global batch: of all processes and all
    micro-batches of an optimizer step, the short last step included. On several processes
    accelerate fills the last global batch of an epoch up with examples from the epoch's start; they
    are counted as the examples they are.

    Args:
        train_dataset: as `fit_examples` makes it.
        throughput: what its measurement can't know.
        Others as for `SFTTrainer`.

    Raises:
        UserError: a setting that the loss cannot be computed with, or a data set of another form.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        **arguments: Any,
    ) -> None:
        _check_settings(args, train_dataset)
        if args.padding_free and not args.packing:
            # TRL refuses a limit that it wouldn't hold to; the examples fit, as was checked.
            args.max_length = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **arguments,
        )
        if self.aux_loss_enabled:
            raise UserError(
                f"trainer.router_aux_loss_coef: {self.router_aux_loss_coef} found, expected 0.0: "
                "cold start has no load-balancing loss"
            )
        # `compute_loss` divides by the examples of all accumulation steps: Trainer must not again.
        self.model_accepts_loss_kwargs = True

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor:
        """The number of examples in an accumulated global batch (TRL counts its tokens)."""
        local = sum(map(_count_examples, batch_samples))
        examples: torch.Tensor = self.accelerator.gather(torch.tensor(local, device=device)).sum()
        return examples

    def compute_loss(
        self,
        model: nn.Module | Callable[..., Any],
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of a micro-batch, a scalar; in evaluation the mean over the batch's examples."""
        passes: list[Any] = []

        def remember(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        # TRL's token mean is not used; what it logs beside it (entropy, token accuracy) is.
        result = super().compute_loss(remember, inputs, return_outputs, num_items_in_batch)
        fused = passes[0]
        per_example = _losses_of_examples(fused.log_probs, fused.label_mask, inputs.get("seq_idx"))
        if num_items_in_batch is None:
            loss = per_example.mean()
        else:
            # Gradients are averaged over processes, but N already counts the examples of all.
            loss = per_example.sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, result[1]) if return_outputs else loss


def _count_examples(batch: Mapping[str, torch.Tensor]) -> int:
    if "seq_idx" not in batch:
        return len(batch["labels"])
    return len(batch["seq_idx"][batch["labels"] != -100].unique())


def _losses_of_examples(
    log_probs: torch.Tensor, mask: torch.Tensor, example_of_token: torch.Tensor | None
) -> torch.Tensor:
    """The token mean of -log p of each example.

    Args:
        log_probs: of the tokens from the second on, (rows, tokens - 1).
        mask: which of them are learned, of the same shape.
        example_of_token: where the examples of a batch stand in one row, behind each other: the
            number of each token's example, (1, tokens).
    """
    if example_of_token is None:
        return -log_probs.sum(1) / mask.sum(1).clamp(min=1)
    learned = mask[0]
    _, example = example_of_token[0, 1:][learned].unique(return_inverse=True)
    counts = torch.bincount(example)
    totals = log_probs.new_zeros(len(counts)).index_add(0, example, log_probs[0][learned])
    return -totals / counts


def _check_settings(args: SFTConfig, dataset: Dataset) -> None:
    """Refuse what would change the loss or the examples without a word."""
    problems = Problems()
    if not {"input_ids", "labels"} <= set(dataset.column_names):
        problems.add(
            f"cold-start examples: columns {dataset.column_names} found, expected input_ids and "
            "labels; make them with fit_examples"
        )
    elif args.max_length is not None:
        longest = max(map(len, dataset["input_ids"]))
        if longest > args.max_length:
            problems.add(
                f"trainer.max_length: {args.max_length} found, but the longest example has "
                f"{longest} tokens and would be cut; fit the examples to the same length"
            )
    unwanted = {
        "label_smoothing_factor": args.label_smoothing_factor,
        "parallelism_config": args.parallelism_config,
    }
    for name, value in unwanted.items():
        if value:
            problems.add(
                f"trainer.{name}: {value} found, expected it to be off: the loss is a mean over "
                "whole examples, each with its own token mean"
            )
    if args.packing and args.packing_strategy != "bfd":
        problems.add(
            f"trainer.packing_strategy: {args.packing_strategy} found, expected bfd: others cut "
            "examples in two"
        )
    if args.loss_type != "nll":
        problems.add(
            f"trainer.loss_type: {args.loss_type} found, expected nll: cold start has one loss"
        )
    problems.raise_if_any()

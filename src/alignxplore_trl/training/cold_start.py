"""Supervised cold start: the mean over examples of each completion's token mean (METHOD 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig, SFTTrainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.throughput import Throughput


@dataclass
class ColdStartConfig(SFTConfig):
    """The fields of `SFTConfig`, and ours; a ValueError where the loss or examples would change.

    Attributes:
        examples: the verified completions, or, for comparison, as many drawn from all well-formed.
    """

    examples: Literal["verified", "unverified"] = "verified"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # `fit_examples` prepares it.
        off: dict[str, object] = dict.fromkeys(("packing", "padding_free"), False)
        off |= {"label_smoothing_factor": 0.0, "average_tokens_across_devices": True}
        refuse_others(self, loss_type="nll", **off)


def refuse_others(args: TrainingArguments, **expected: object) -> None:
    """Raise a ValueError for values under which a trainer's loss or a resume would be wrong."""
    expected["eval_strategy"] = "no"
    found = {name: getattr(args, name) for name in expected}
    wrong = [f"{n}={found[n]}, expected {v}" for n, v in expected.items() if found[n] != v]
    if args.save_total_limit == 1:
        wrong.append("save_total_limit=1, expected 2 or more: a kill while saving needs another")
    if wrong:
        raise ValueError("; ".join(wrong))


def fit_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """Tokenise examples: `input_ids`, `labels`; and counts, of which `longest` is in tokens.

    `prompt` is masked; `completion` and an end-of-text token are learned. They are tokenised apart,
    since tokens that merge across the border don't occur when a completion is generated. Examples
    of more than `max_length` tokens are left out: half a one would teach not to finish.
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
    counts = {"examples": len(examples), "kept": len(rows), "too_long": len(examples) - len(rows)}
    return Dataset.from_list(rows), counts | {"longest": longest}


class ColdStartTrainer(SFTTrainer):
    """`SFTTrainer` with the loss `1/N Σ_i 1/(|r_i|+|d_i|) Σ_t -log p(token_t)`.

    N counts the examples of the whole accumulated global batch: of all processes and micro-batches
    of an optimizer step. Arguments are those of `SFTTrainer`, the dataset that of `fit_examples`.
    """

    def __init__(self, model: Any, args: ColdStartConfig, train_dataset: Dataset, **rest: Any):
        super().__init__(model=model, args=args, train_dataset=train_dataset, **rest)
        # TRL divides by the examples of all accumulation steps; Trainer must not again.
        self.model_accepts_loss_kwargs = True
        self.throughput = Throughput(self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The micro-batches of an optimizer step, and the examples in it over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(own).sum()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """TRL's sum over log-probabilities, given the mean of each example in their place."""

        def averaging(**arguments: Any) -> Any:
            out = model(**arguments)
            out.log_probs = out.log_probs.sum(1) / out.label_mask.sum(1).clamp(min=1)
            return out

        self.throughput.count(inputs["attention_mask"].sum(1))
        return super().compute_loss(averaging, inputs, *rest, **named)  # type: ignore[no-untyped-call]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the throughput since the line before."""
        super().log(logs | self.throughput.measured() if "loss" in logs else logs, start_time)

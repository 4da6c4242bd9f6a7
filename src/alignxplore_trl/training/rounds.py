"""Reinforcement learning in rounds: GRPO in which a case's description enters its next prompt."""

from __future__ import annotations

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import (
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError
from alignxplore_trl.text.completions import Inference, parse_completion
from alignxplore_trl.training.blocks import in_blocks, micro_batches
from alignxplore_trl.training.credit import credited_rewards
from alignxplore_trl.training.earlier import EarlierDescriptions
from alignxplore_trl.training.throughput import Throughput
from alignxplore_trl.training.vllm_lora import keep_base_weights

Row = dict[str, Any]


@dataclass
class RoundsConfig(GRPOConfig):
    """The fields of `GRPOConfig`, and ours.

    `num_train_epochs` is how often the cases are gone through; TRL is given them laid out, as one.

    Raises:
        ValueError: values that TRL or transformers refuse, or under which rounds would be wrong.
    """

    start: Literal["cold_start", "backbone"] = field(
        default="cold_start", metadata={"help": "The model that is trained."}
    )
    round_credit: float = field(
        default=0.0,
        metadata={"help": "Part of the next round's mean reward that its rollout earns too."},
    )
    share_prompts: Literal["auto"] | bool = field(
        default="auto",
        metadata={"help": "Compute the prompt of a group once in the update."},
    )
    completions_every: int = field(
        default=10,
        metadata={
            "help": "Optimizer steps between two tables of rollouts, of a block's rounds each."
        },
    )
    log_completions: bool = True
    # Nothing that users wrote is printed.
    num_completions_to_print: int | None = 0
    remove_unused_columns: bool | None = False
    shuffle_dataset: bool | None = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Asked here, since transformers says it only when the first completion is sampled.
        TemperatureLogitsWarper(self.temperature)
        TopPLogitsWarper(self.top_p)
        if self.top_k:
            TopKLogitsWarper(self.top_k)
        if self.min_p is not None:
            MinPLogitsWarper(self.min_p)
        expected = {
            "eval_strategy": "no",
            "eval_on_start": False,
            "remove_unused_columns": False,
            "shuffle_dataset": False,
        }
        problems = [
            f"{name}={getattr(self, name)}, expected {value}"
            for name, value in expected.items()
            if getattr(self, name) != value
        ]
        if self.save_strategy not in ("no", "steps"):
            problems.append(
                f"save_strategy={self.save_strategy}, expected steps: there is one long epoch"
            )
        if self.save_total_limit == 1:
            problems.append(
                "save_total_limit=1, expected 2 or more: a kill while saving leaves none"
            )
        if self.max_steps > 0 and self.max_steps % self.steps_per_checkpoint:
            problems.append(
                f"max_steps={self.max_steps}, expected a multiple of {self.steps_per_checkpoint}: "
                f"{micro_batches(self)} micro-batches (steps_per_generation x num_iterations) of a "
                f"generation batch, gradient_accumulation_steps={self.gradient_accumulation_steps}"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def steps_per_checkpoint(self) -> int:
        """After so many optimizer steps a generation batch has been trained on to its end."""
        return micro_batches(self) // math.gcd(
            micro_batches(self), self.gradient_accumulation_steps
        )


class RoundsTrainer(GRPOTrainer):
    """`GRPOTrainer` in which the prompt of round k+1 holds a description of round k.

    It is drawn among the case's own well-formed rollouts; without one, or where it doesn't fit, the
    case goes on without.

    Args:
        reward: TRL's reward callable; the only one, since beside a second TRL counts a missing
            judgement as 0.
        rows: one per case and round, see `data.rounds.round_rows`.
        prompt_with: a row and an earlier description -> the prompt that holds it, within its budget.
        rounds: the most rounds of a case.
        Others as for `GRPOTrainer`.

    Raises:
        UserError: too few cases for a generation batch, or batches that can't hold what they have to.
    """

    args: RoundsConfig

    def __init__(
        self,
        model: Any,
        reward: Callable[..., list[float | None]],
        args: RoundsConfig,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_with: Callable[[Mapping[str, Any], str], FittedPrompt],
        rounds: int,
        callbacks: Sequence[TrainerCallback] = (),
        peft_config: Any = None,
    ) -> None:
        self.reward, self.prompt_with, self.rounds = reward, prompt_with, rounds
        self.earlier = EarlierDescriptions(args.seed)

        def rewarded(**columns: Any) -> list[float | None]:
            return self._rewards(**columns)

        rewarded.__name__ = _name(reward)
        laid_out = in_blocks(rows, args, rounds, together=args.round_credit > 0)
        args = copy.copy(args)
        args.num_train_epochs = 1.0
        super().__init__(
            model=model,
            reward_funcs=rewarded,
            args=args,
            train_dataset=laid_out,
            processing_class=tokenizer,
            callbacks=[*callbacks, self.earlier],
            peft_config=peft_config,
        )
        self.throughput = Throughput(self)
        if args.use_vllm:
            keep_base_weights(self.vllm_generation)
        logging.getLogger("trl.trainer.grpo_trainer").addFilter(_no_user_text)

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        self._rows = [dict(row) for row in inputs]
        return super()._generate_and_score_completions(self._rows)

    def _generate(self, prompts: list[str]) -> Any:
        """Generate round after round; `prompts` is what TRL goes on with, and is filled in."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(self._rows):
            places[row["round"]].append(place)
        parts = []
        for _, own in sorted(places.items()):
            rows = [self._rows[place] for place in own]
            self._start(rows)
            for place, row in zip(own, rows, strict=True):
                prompts[place] = row["prompt"]
            parts.append(super()._generate([row["prompt"] for row in rows]))
            self.throughput.count_written(parts[-1][1])
            for row, drawn in zip(rows, self.earlier.draw(rows, parts[-1][3]), strict=True):
                row["drawn"] = drawn
        return _together(parts, [place for _, own in sorted(places.items()) for place in own])

    def _start(self, rows: list[Row]) -> None:
        """Fill in the description that each row starts from and the prompt that holds it."""
        starts: dict[str, Row] = {}
        for row in rows:
            if row["case_id"] not in starts:
                starts[row["case_id"]] = self._start_of(row)
            row.update(starts[row["case_id"]])

    def _start_of(self, row: Row) -> Row:
        earlier = self.earlier.of(row)
        if earlier is None:
            return {"d_prev": None, "cut": False}
        try:
            fitted = self.prompt_with(row, earlier)
        except PromptTooLongError:
            return {"d_prev": None, "cut": True}
        cut = bool(fitted.dropped_signals or fitted.shortened_texts)
        return {"prompt": fitted.text, "d_prev": earlier, "cut": cut}

    def _rewards(self, **columns: Any) -> list[float | None]:
        """The reward's own, with credit where that is asked for; what becomes of them is logged."""
        with self.throughput.judge():
            own = self.reward(**columns)
        log_metric, log_extra = columns["log_metric"], columns["log_extra"]
        for name in ("case_id", "round", "d_prev"):
            log_extra(name, columns[name])
        told = ("case_id", "round", "d_prev", "cut", "completions")
        seen = list(zip(own, *(columns[name] for name in told), strict=True))
        for name, value in _metrics(gather_object(seen)).items():
            log_metric(name, value)
        if not self.args.round_credit:
            return own
        log_extra("own_reward", own)
        shape = (-1, self.rounds, self.args.num_generations)
        rewards = np.array(own, dtype=float).reshape(shape)
        drawn = np.array(columns["drawn"]).reshape(shape)
        read = np.array([each is not None for each in columns["d_prev"]]).reshape(shape)
        # What was too long for the next prompt was drawn, and yet not read.
        drawn[:, :-1] &= read[:, 1:]
        credited = credited_rewards(rewards, drawn, self.args.round_credit)
        return [None if np.isnan(each) else float(each) for each in credited.ravel()]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any
    ) -> torch.Tensor:
        """TRL's loss of a micro-batch; its tokens are counted."""
        self.throughput.count(inputs["prompt_mask"].sum(1) + inputs["completion_mask"].sum(1))
        return super().compute_loss(model, inputs, *rest, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's; tables of rollouts as often as asked for, and the throughput since last time."""
        apart = self.rounds * self.args.steps_per_checkpoint
        due = -self.state.global_step % self.args.completions_every < apart
        self.log_completions = self.args.log_completions and due and "loss" in logs
        super().log(logs | self.throughput.measured() if "loss" in logs else logs, start_time)


def _together(parts: Sequence[tuple[Any, ...]], places: Sequence[int]) -> tuple[Any, ...]:
    """The columns of what several rounds have written as one, each row in its place."""
    if len(parts) == 1:
        return parts[0]

    def column(values: Sequence[Any]) -> Any:
        if not values[0]:  # None, or nothing of what tools and images bring.
            return values[0]
        placed = zip(places, (each for some in values for each in some), strict=True)
        return [each for _, each in sorted(placed, key=itemgetter(0))]

    return tuple(map(column, zip(*parts, strict=True)))


def _metrics(
    seen: Sequence[tuple[float | None, str, int, str | None, bool, str]],
) -> dict[str, float]:
    """What a generation batch came to, of all processes; per round where rounds differ."""
    well_formed = [isinstance(parse_completion(text), Inference) for *_, text in seen]
    found = {
        "completions/well_formed": sum(well_formed) / len(seen),
        "completions/unscored": sum(own is None for own, *_ in seen) / len(seen),
    }
    for number in sorted({each[2] for each in seen}):
        of_round = [each for each in seen if each[2] == number]
        groups: dict[str, list[float]] = defaultdict(list)
        for own, case, *_ in of_round:
            groups[case] += [] if own is None else [own]
        scored = [own for group in groups.values() for own in group]
        if scored:
            found[f"reward/round_{number}"] = sum(scored) / len(scored)
        flat = [len(set(group)) < 2 for group in groups.values()]
        found[f"groups_that_teach_nothing/round_{number}"] = sum(flat) / len(flat)
        if number > 1:
            missing, cut = ([each[i] for each in of_round] for i in (3, 4))
            found["earlier_description/missing"] = sum(d is None for d in missing) / len(missing)
            found["earlier_description/prompt_shortened"] = sum(cut) / len(cut)
    return found


def _name(reward: Any) -> str:
    function = getattr(reward, "func", reward)  # Of a partial.
    return str(getattr(function, "__name__", type(function).__name__))


def _no_user_text(record: logging.LogRecord) -> bool:
    """TRL warns of a row without a reward by logging all of it, what users wrote included."""
    return "All reward functions returned None" not in record.getMessage()

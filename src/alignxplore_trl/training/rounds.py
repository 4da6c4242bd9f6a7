"""Reinforcement learning in rounds: GRPO in which a case's description enters its next prompt."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers.trainer_callback import ExportableState
from trl import GRPOConfig

from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError
from alignxplore_trl.text.completions import Inference, parse_completion
from alignxplore_trl.training.blocks import in_blocks, micro_batches
from alignxplore_trl.training.cold_start import refuse_others
from alignxplore_trl.training.credit import credited_rewards
from alignxplore_trl.training.share_prompts import Batch, SharesPrompts
from alignxplore_trl.training.throughput import Throughput
from alignxplore_trl.training.vllm_lora import keep_base_weights

Row = dict[str, Any]


@dataclass
class RoundsConfig(GRPOConfig):
    """The fields of `GRPOConfig`, and ours; a ValueError where rounds or a resume would be wrong.

    `num_train_epochs` is how often the cases are gone through; TRL is given them laid out, as one.

    Attributes:
        start: the model that is trained.
        round_credit: part of the next round's mean reward that the rollout it started from earns,
            too, see `credit`. If not 0, a generation batch holds all rounds of its cases.
        share_prompts: whether the update computes the prompt of a group once, see `share_prompts`.
        completions_every: optimizer steps between two tables of a block's rollouts.
    """

    start: Literal["cold_start", "backbone"] = "cold_start"
    round_credit: float = 0.0
    share_prompts: Literal["auto"] | bool = "auto"
    completions_every: int = 10
    log_completions: bool = True
    num_completions_to_print: int | None = 0  # Users wrote what they hold.
    remove_unused_columns: bool | None = False
    shuffle_dataset: bool | None = False

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        # Or transformers refuses them when the first completion is sampled.
        transformers.TemperatureLogitsWarper(self.temperature)
        transformers.TopPLogitsWarper(self.top_p)
        transformers.TopKLogitsWarper(self.top_k or 1)
        transformers.MinPLogitsWarper(self.min_p or 0.0)
        refuse_others(self, eval_on_start=False, remove_unused_columns=False, shuffle_dataset=False)
        if self.max_steps > 0 and self.max_steps % self.steps_per_checkpoint:
            raise ValueError(
                f"max_steps={self.max_steps}, expected a multiple of {self.steps_per_checkpoint}: "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} of the "
                f"{micro_batches(self)} micro-batches that a generation batch is trained on"
            )

    @property
    def steps_per_checkpoint(self) -> int:
        """After so many optimizer steps a generation batch has been trained on to its end."""
        batches = micro_batches(self)
        return batches // math.gcd(batches, self.gradient_accumulation_steps)


class EarlierDescriptions(transformers.TrainerCallback, ExportableState):
    """For each case of the last generation batch, the description that its next round starts from.

    Drawn among its well-formed rollouts by a hash of (seed, epoch, case, round), the same on every
    process. A checkpoint keeps it, in `trainer_state.json`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.drawn: dict[str, str | None] = {}

    def draw(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[bool]:
        """Draw for all processes' cases; whether each completion here is the one that was drawn."""
        rank, own = PartialState().process_index, []
        for place, (row, text) in enumerate(zip(rows, completions, strict=True)):
            own.append(((row["epoch"], row["case_id"], row["round"]), (rank, place), text))
        written: dict[Any, list[Any]] = defaultdict(list)
        for key, place, text in gather_object(own):
            outcome, found = parse_completion(text), written[key]
            if isinstance(outcome, Inference):
                found.append((place, outcome.description))
        self.drawn, chosen = {}, []
        for key, found in written.items():
            digest = hashlib.sha256(json.dumps([self.seed, *key]).encode()).digest()
            number = int.from_bytes(digest[:8], "big")
            where, description = found[number % len(found)] if found else (None, None)
            self.drawn[f"{key[1]}/{key[2]}"] = description
            chosen.append(where)
        return [place in chosen for _, place, _ in own]

    def of(self, row: Mapping[str, Any]) -> str | None:
        """What a row starts from: its case's description of the round before, or none."""
        return self.drawn[f"{row['case_id']}/{row['round'] - 1}"] if row["round"] > 1 else None

    def state(self) -> dict[str, Any]:
        return {"args": {"seed": self.seed}, "attributes": {"drawn": self.drawn}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.drawn = state.stateful_callbacks[type(self).__name__]["attributes"]["drawn"]


class RoundsTrainer(SharesPrompts):
    """`GRPOTrainer` in which the prompt of round k+1 holds a description of round k.

    It is drawn among the case's own well-formed rollouts; without one, or where it doesn't fit, the
    case goes on without. `reward` is TRL's callable, the only one: beside another, TRL counts
    `None` as 0. `rows`, see `data.rounds.round_rows`, are one per case and round, of which
    there are at most `rounds`; `prompt_with` makes of a row and an earlier description a prompt.
    """

    args: RoundsConfig

    def __init__(
        self,
        model: Any,
        reward: Callable[..., list[float | None]],
        args: RoundsConfig,
        rows: Dataset,
        tokenizer: transformers.PreTrainedTokenizerBase,
        *,
        prompt_with: Callable[[Mapping[str, Any], str], FittedPrompt],
        rounds: int,
        callbacks: Sequence[transformers.TrainerCallback] = (),
        peft_config: Any = None,
    ) -> None:
        self.reward, self.prompt_with, self.rounds = reward, prompt_with, rounds
        self.earlier = EarlierDescriptions(args.seed)

        def rewarded(**columns: Any) -> list[float | None]:
            return self._rewards(**columns)

        named = getattr(reward, "func", reward)  # Of a partial.
        rewarded.__name__ = getattr(named, "__name__", type(named).__name__)
        laid_out = in_blocks(rows, args, rounds, together=args.round_credit > 0)
        args = copy.copy(args)
        args.num_train_epochs = 1
        added = {"callbacks": [*callbacks, self.earlier], "peft_config": peft_config}
        super().__init__(model, rewarded, args, laid_out, processing_class=tokenizer, **added)
        self.throughput = Throughput(self)
        if args.use_vllm:
            keep_base_weights(self.vllm_generation)
        logging.getLogger("trl.trainer.grpo_trainer").addFilter(_has_no_user_text)

    def _generate_and_score_completions(self, inputs: list[Row]) -> Batch:
        # Round by round, where there are several in a batch.
        self._rows = sorted((dict(row) for row in inputs), key=itemgetter("round"))
        return super()._generate_and_score_completions(self._rows)

    def _generate(self, prompts: list[str]) -> Any:
        """Generate round after round; `prompts` is what TRL goes on with, and is filled in."""
        parts = []
        for _, of_round in groupby(self._rows, key=itemgetter("round")):
            rows = list(of_round)
            starts = {row["case_id"]: row for row in rows}
            starts = {case: self._start_of(row) for case, row in starts.items()}
            for row in rows:
                row.update(starts[row["case_id"]])
            parts.append(super()._generate([row["prompt"] for row in rows]))
            for row, drawn in zip(rows, self.earlier.draw(rows, parts[-1][3]), strict=True):
                row["drawn"] = drawn
        prompts[:] = [row["prompt"] for row in self._rows]
        # Lists of as many entries as rows, or nothing: of tools, images and the like.
        return tuple(own[0] and [*chain(*own)] for own in zip(*parts, strict=True))

    def _start_of(self, row: Row) -> Row:
        """What a case starts a round from, the prompt that holds it, and whether that was cut."""
        earlier = self.earlier.of(row)
        start = {"d_prev": None, "prompt": row["prompt"], "shortened": False}
        if earlier is not None:
            try:
                fitted = self.prompt_with(row, earlier)
            except PromptTooLongError:
                return start | {"shortened": True}
            cut = fitted.dropped_signals + fitted.shortened_texts > 0
            start = {"d_prev": earlier, "prompt": fitted.text, "shortened": cut}
        return start

    def _rewards(self, **columns: Any) -> list[float | None]:
        """The reward's own, with credit where that is asked for; what becomes of them is logged."""
        with self.throughput.judge():
            own = self.reward(**columns)
        rewards, without = np.array(own, dtype=float), [d is None for d in columns["d_prev"]]
        seen = {name: columns[name] for name in ("case_id", "round", "shortened")}
        rows = pd.DataFrame({"reward": rewards, "missing": without, **seen}).to_dict("records")
        for name, value in _metrics(pd.DataFrame(gather_object(rows))).items():
            columns["log_metric"](name, value)
        for name in ("case_id", "round", "d_prev"):
            columns["log_extra"](name, columns[name])
        if not self.args.round_credit:
            return own
        columns["log_extra"]("own_reward", own)
        shape = (self.rounds, -1, int(self.num_generations or 1))
        # What was too long for the next prompt was drawn, and yet not read; nothing reads the last.
        unread = np.roll(np.array(without).reshape(shape), -1, axis=0)
        drawn = np.array(columns["drawn"]).reshape(shape) & ~unread
        credited = credited_rewards(rewards.reshape(shape), drawn, self.args.round_credit)
        return [None if np.isnan(each) else float(each) for each in credited.ravel()]

    def compute_loss(self, model: Any, inputs: Batch, *rest: Any, **named: Any) -> torch.Tensor:
        """TRL's loss of a micro-batch; its tokens are counted."""
        prompts, own = inputs["prompt_mask"].sum(-1), inputs["completion_mask"].sum(-1)
        shared = prompts[:, 1:].flatten() if self.shares else None
        self.throughput.count((prompts + own).flatten(), shared)
        return super().compute_loss(model, inputs, *rest, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's, with the throughput since the line before, and tables when they are due."""
        block = self.args.steps_per_checkpoint * (1 if self.args.round_credit else self.rounds)
        due = "loss" in logs and -self.state.global_step % self.args.completions_every < block
        self.log_completions = self.args.log_completions and due
        super().log(logs | self.throughput.measured() if "loss" in logs else logs, start_time)


def _metrics(seen: pd.DataFrame) -> dict[str, float]:
    """What each round of a generation batch came to, over all processes; NaN where nothing did."""
    found: dict[str, float] = {}
    for number, of_round in seen.groupby("round"):
        spread = of_round.groupby("case_id")["reward"].nunique()
        found[f"groups_that_teach_nothing/round_{number}"] = (spread < 2).mean()
        found[f"reward/round_{number}"] = of_round["reward"].mean()
        if number != 1:
            found["earlier_description/missing"] = of_round["missing"].mean()
            found["earlier_description/prompt_shortened"] = of_round["shortened"].mean()
    return found


def _has_no_user_text(record: logging.LogRecord) -> bool:
    """TRL logs all of a row without a reward, what its user wrote included."""
    return "All reward functions returned None" not in record.getMessage()

"""Reinforcement learning in rounds: GRPO in which a case's description enters its next prompt."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.run.errors import Problems
from alignxplore_trl.run.tracking import log_table
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, shorten
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.training.checkpoints import CompleteCheckpoints
from alignxplore_trl.training.credit import (
    credit_metrics,
    credit_problems,
    credited_rewards,
    group_advantages,
)
from alignxplore_trl.training.earlier import EarlierDescriptions, Rollout
from alignxplore_trl.training.outage import (
    ContainedReward,
    OutageSettings,
    Reward,
    answered_rewards,
    raise_together,
)
from alignxplore_trl.training.sampler import RoundBlockSampler
from alignxplore_trl.training.throughput import MeasuresThroughput, ThroughputSettings
from alignxplore_trl.training.vllm_rollouts import (
    rollout_engine,
    sampling_metrics,
    share_warning,
)

Row = dict[str, Any]

logger = get_logger(__name__)
# Of a prompt in a table of completions.
_SHOWN_CHARACTERS = 1000
_ROW_COLUMNS = {"prompt", "case_id", "round", "signals", "post", "chosen", "rejected"}


@dataclass(frozen=True)
class RoundStart:
    """What a case starts a later round from.

    Attributes:
        description: the earlier description, `None` if there is none or it is too long.
        prompt: holds the description, within the token budget; `None` without one.
        too_long: even cut short, the description does not fit beside a signal.
    """

    description: str | None
    prompt: FittedPrompt | None
    too_long: bool = False

    @property
    def shortened(self) -> bool:
        """Whether signals or parts of texts had to be left out for the budget."""
        return self.prompt is not None and bool(
            self.prompt.dropped_signals or self.prompt.shortened_texts
        )


class RoundsGRPOTrainer(CompleteCheckpoints, MeasuresThroughput, GRPOTrainer):
    """`GRPOTrainer` on blocks of cases, each block in all its rounds before the next block.

    The base setting is one round. With more, the prompt of round k+1 holds the description that
    `EarlierDescriptions` drew among the case's own rollouts of round k. It is filled in when a
    generation batch starts, because only then is it known. All of this acts in training mode only.

    Args:
        model, args, processing_class, callbacks, peft_config: as for `GRPOTrainer`.
        reward_funcs: the one reward callable.
        train_dataset: one row per case and round, with the columns of `data.rounds.RoundRow`.
        prompt_with: a row and an earlier description -> the prompt that holds it, within the token
            budget. May raise `PromptTooLongError`.
        rounds: the most rounds of a case.
        round_credit: part of a round's mean reward that the rollout it started from earns, too, see
            `credit.credited_rewards`; 0: none. With credit, all rounds of a block are generated
            before the first is trained on, and make one optimizer update; cases with fewer than
            `rounds` rounds are left out.
        completions_folder: where `step_<optimizer steps done>.parquet` files go: all completions of
            a generation batch with prompt, d_prev, reward, advantage, case and round. `None`: none.
        completions_every: optimizer steps between two such files.
        outage: what is done with a batch that the judge didn't answer; `None`: it is trained on,
            without the completions in question.
        throughput: what its measurement can't know.

    Raises:
        UserError: a setting under which rounds, resumes or rewards would be wrong; too few cases.
    """

    args: GRPOConfig
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase

    def __init__(
        self,
        model: Any,
        reward_funcs: Reward | list[Reward],
        args: GRPOConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        *,
        prompt_with: Callable[[Mapping[str, Any], str], FittedPrompt],
        rounds: int,
        round_credit: float = 0.0,
        completions_folder: Path | None = None,
        completions_every: int = 1,
        outage: OutageSettings | None = None,
        throughput: ThroughputSettings | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any = None,
    ) -> None:
        _check_settings(args, reward_funcs, train_dataset, rounds, round_credit)
        self.prompt_with = prompt_with
        self.rounds = rounds
        self.round_credit = round_credit
        self._block: list[dict[str, torch.Tensor | Any]] = []
        self.completions_folder = completions_folder
        self.completions_every = completions_every
        self.outage = outage
        self.reward = ContainedReward(
            reward_funcs[0] if isinstance(reward_funcs, list) else reward_funcs
        )
        self._batch_begun: float | None = None
        self._warned_of_sampling = False
        self.earlier = EarlierDescriptions(args.seed)
        assert args.generation_batch_size is not None  # GRPOConfig fills both in.
        assert args.num_generations is not None
        case_ids, numbers = train_dataset["case_id"], train_dataset["round"]
        self._rows = train_dataset
        self._place_of_row = {
            row: place for place, row in enumerate(zip(case_ids, numbers, strict=True))
        }
        self.sampler = RoundBlockSampler(
            case_ids,
            numbers,
            cases_per_block=args.generation_batch_size // args.num_generations,
            generations=args.num_generations,
            repeats=_micro_batches(args),
            seed=args.seed,
            shuffle=bool(args.shuffle_dataset),
            only_rounds=rounds if round_credit else None,
        )
        with rollout_engine():
            super().__init__(
                model=model,
                reward_funcs=self.reward,
                args=args,
                train_dataset=train_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                peft_config=peft_config,
                throughput=throughput,
            )
        if args.use_vllm:
            vllm = self.vllm_generation
            vllm.sync_weights = self.clock.timed("sync", vllm.sync_weights)  # type: ignore[method-assign]
        counts = self.sampler.counts
        if counts.left_out or counts.never_used:
            of_another = f", or they have another number than {rounds}" if round_credit else ""
            logger.warning(
                f"Of {counts.cases} cases {counts.left_out} do not fill a block and are left out, "
                f"others in each epoch; {counts.never_used} are never used, because too few cases "
                f"have as many rounds as they{of_another}"
            )

    @property
    def steps_between_checkpoints(self) -> int:
        """After so many optimizer steps a generation batch has been trained on to its end."""
        batch = _micro_batches(self.args)
        return batch // math.gcd(batch, self.args.gradient_accumulation_steps)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RoundBlockSampler:
        return self.sampler

    def _run_epoch(self, *, epoch: int, **arguments: Any) -> None:  # type: ignore[override]
        # Said here because accelerate does not forward it when it skips batches on several
        # processes: a resume in a later epoch would follow the order of the first.
        self.sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **arguments)

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, torch.Tensor | Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        with self.clock.phase("other"):
            return self._play(inputs)

    def _play(self, inputs: list[Row]) -> dict[str, torch.Tensor | Any]:
        """The generation batch that is trained on next, of this process."""
        if not self.round_credit:
            batch = self._play_round(inputs)
            self._write_completions(self._rollouts)
            return batch
        if inputs[0]["round"] == 1:
            self._block = self._play_block(inputs)
        if inputs[0]["round"] != self.rounds - len(self._block) + 1:
            raise RuntimeError(
                f"round {inputs[0]['round']} of {self.rounds} is asked for, but {len(self._block)} "
                "rounds of its block are left: all of them are generated when the first begins"
            )
        return self._block.pop(0)

    def _play_round(self, rows: list[Row]) -> dict[str, torch.Tensor | Any]:
        """Generate and score the completions of this process's rows of one round."""
        filled = self._with_earlier_descriptions(rows)
        # Generation and rewards are phases of their own; what is left are log-probabilities.
        with self.clock.phase("train"):
            batch: dict[str, torch.Tensor | Any] = super()._generate_and_score_completions(filled)
        self._log_sampling(batch)
        return batch

    def _generate(self, prompts: list[str]) -> Any:
        if not self.model.training:
            return super()._generate(prompts)
        with self.clock.phase("generate"):
            written = super()._generate(prompts)
        prompt_ids, completion_ids, *_ = written
        self.count_generated(prompt_ids, completion_ids)
        return written

    def _play_block(self, rows: list[Row]) -> list[dict[str, torch.Tensor | Any]]:
        """Generate and score all rounds of the cases of round 1, and credit each with the next."""
        batches, rollouts = [], []
        for number in range(1, self.rounds + 1):
            of_round = {
                case_id: self._rows[self._place_of_row[case_id, number]]
                for case_id in dict.fromkeys(row["case_id"] for row in rows)
            }
            batches.append(self._play_round([of_round[row["case_id"]] for row in rows]))
            rollouts.append(self._rollouts())
        self._give_credit(batches, rollouts)
        self._write_completions(lambda: pd.concat(rollouts, ignore_index=True))
        return batches

    def _give_credit(
        self, batches: Sequence[dict[str, torch.Tensor | Any]], rollouts: Sequence[pd.DataFrame]
    ) -> None:
        """Put the advantages of credited rewards in the place of TRL's.

        Args:
            batches: of the rounds of a block, this process's.
            rollouts: of the same rounds, those of all processes: each computes the same.
        """
        block = pd.concat(rollouts)
        shape = (self.rounds, -1, self.sampler.generations)
        rewards = block["reward"].to_numpy(float).reshape(shape)
        well_formed = block["completion"].map(_is_well_formed).to_numpy(bool).reshape(shape)
        drawn = block["drawn"].to_numpy(bool).reshape(shape)
        # What was too long for the next prompt was drawn, and yet not read; nothing reads the last.
        read = block["d_prev"].notna().to_numpy(bool).reshape(shape)
        drawn = drawn & np.concatenate([read[1:], np.zeros_like(read[:1])])
        credited = credited_rewards(rewards, well_formed, drawn, self.round_credit)
        advantages = group_advantages(credited).reshape(self.rounds, -1)
        for number, (batch, table) in enumerate(zip(batches, rollouts, strict=True)):
            table["credited_reward"] = credited[number].ravel()
            table["advantage"] = advantages[number]
            own = batch["advantages"]
            first = self.accelerator.process_index * len(own)
            batch["advantages"] = own.new_tensor(advantages[number, first : first + len(own)])
        for name, value in credit_metrics(rewards, credited, drawn).items():
            self._metrics["train"][name].append(value)

    def _calculate_rewards(
        self,
        inputs: list[Row],
        prompts: list[str],
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """Rewards of all processes, (completions, 1), NaN for `None`; ends the round of a batch."""

        def ask() -> torch.Tensor:
            # What an attempt before this one has logged is not of the rewards that will count.
            self._pending_metrics.clear()
            self._pending_extra_logs.clear()
            with _no_warnings_with_user_text():
                rewards: torch.Tensor = ask_once(inputs, prompts, completions, completion_ids_list)
            raise_together(self.reward.error)
            return rewards

        ask_once = super()._calculate_rewards
        if not self.model.training:
            return ask()
        with self.clock.phase("judge"):
            if self.outage is None:
                rewards = ask()
            else:
                own = sum(map(_is_well_formed, completions))
                rewards = answered_rewards(ask, sum(gather_object([own])), self.outage)
        self._log_measurements()
        self._end_round(inputs, completions, rewards)
        return rewards

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        done = self._step % _micro_batches(self.args)
        if done:
            raise RuntimeError(
                f"a checkpoint is due {done} micro-batches into a generation batch, where a resume "
                "would not find the completions again"
            )
        super()._save_checkpoint(model, trial)

    def save_beside(self, checkpoint: Path) -> None:
        """The descriptions that the next round reads."""
        self.earlier.save(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[no-untyped-call]
        if checkpoint is not None:
            self.earlier.load(Path(checkpoint))

    def _log_measurements(self) -> None:
        """Log what the judge did for this batch, over all processes; the same on each of them."""
        taken = getattr(self.reward.reward, "take_measurements", None)
        if taken is None:
            return
        each: list[Measurements] = gather_object([taken()])
        now, begun = time.monotonic(), self._batch_begun
        self._batch_begun = now
        metrics = dict(reduce(add, each).metrics())
        if begun is not None:
            longest = max(gather_object([now - begun]))
            metrics["judge/share_of_time"] = max(one.seconds for one in each) / longest
        for name, value in metrics.items():
            if not math.isnan(value):
                self._metrics["train"][name].append(value)

    def _log_sampling(self, batch: Mapping[str, Any]) -> None:
        """Log how far vLLM's probabilities are off, and warn once where that is far."""
        metrics = sampling_metrics(batch, self.args, self.accelerator.gather)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        warning = share_warning(metrics, self.args)
        if warning is not None and not self._warned_of_sampling:
            self._warned_of_sampling = True
            logger.warning(warning)

    def _with_earlier_descriptions(self, rows: list[Row]) -> list[Row]:
        """The rows of this process with `d_prev`, and with the prompt that holds it."""
        if rows[0]["round"] == 1:
            return [{**row, "d_prev": None} for row in rows]
        starts = {row["case_id"]: self._start_of_round(row) for row in rows}
        self._log_starts(starts)
        filled = []
        for row in rows:
            start = starts[row["case_id"]]
            prompt = row["prompt"] if start.prompt is None else start.prompt.text
            filled.append({**row, "d_prev": start.description, "prompt": prompt})
        return filled

    def _start_of_round(self, row: Row) -> RoundStart:
        """Fit the prompt with the case's earlier description, if it has one and that fits."""
        description = self.earlier.before(row["case_id"], row["round"])
        if description is None:
            return RoundStart(None, None)
        try:
            prompt = self.prompt_with(row, description)
        except PromptTooLongError:
            return RoundStart(None, None, too_long=True)
        return RoundStart(description, prompt)

    def _log_starts(self, starts: dict[str, RoundStart]) -> None:
        """Log shares of the batch's cases; a case on two processes starts the same on both."""
        cases = dict(gather_object(list(starts.items()))).values()
        shares = {
            "missing": [start.description is None for start in cases],
            "too_long": [start.too_long for start in cases],
            "prompt_shortened": [start.shortened for start in cases],
        }
        for name, values in shares.items():
            self._metrics["train"][f"earlier_description/{name}"].append(sum(values) / len(values))

    def _end_round(
        self, rows: list[Row], completions: Sequence[str], rewards: torch.Tensor
    ) -> None:
        """Draw what the next round starts from, the same on every process, and log the round."""
        rollouts: list[Rollout] = gather_object(
            [
                Rollout(row["case_id"], row["round"], completion)
                for row, completion in zip(rows, completions, strict=True)
            ]
        )
        drawn = self.earlier.record(self.sampler.epoch, rollouts)
        for column in ("case_id", "round", "d_prev"):
            self._log_completion_extra(column, [row[column] for row in rows])
        if self.round_credit:
            first = self.accelerator.process_index * len(rows)
            self._log_completion_extra("drawn", drawn[first : first + len(rows)])
        well_formed = [_is_well_formed(rollout.completion) for rollout in rollouts]
        unscored = rewards.isnan().all(dim=1)
        metrics = {
            "completions/well_formed": sum(well_formed) / len(rollouts),
            "completions/unscored": unscored.float().mean().item(),
            f"reward/round_{rollouts[0].round}": rewards[~unscored].mean().item(),
        }
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _rollouts(self) -> pd.DataFrame:
        """The generation batch just scored, of all processes."""
        logs: dict[str, Any] = self._logs
        (rewards,) = logs["rewards"].values()
        return pd.DataFrame(
            {
                "prompt": logs["prompt"],
                "completion": logs["completion"],
                "reward": rewards,
                "advantage": logs["advantages"],
                **logs["extra"],
            }
        )

    def _write_completions(self, rollouts: Callable[[], pd.DataFrame]) -> None:
        """Write rollouts where a file is due; of several files in one step the last one stays."""
        folder, step = self.completions_folder, self.state.global_step
        due = step % self.completions_every == 0
        if folder is None or not due or not self.accelerator.is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"step_{step:06d}.parquet"
        unfinished = file.with_suffix(".unfinished")
        table = rollouts()
        table.to_parquet(unfinished)
        os.replace(unfinished, file)
        # Not by TRL's log_completions: it also prints what users wrote, each time.
        if "wandb" in (self.args.report_to or ()):
            log_table("completions", _shown(table), step)


def _shown(rollouts: pd.DataFrame) -> pd.DataFrame:
    """The columns of rollouts as a table for people: descriptions, and prompts without a middle."""
    outcomes = rollouts["completion"].map(parse_completion)
    shown = pd.DataFrame(
        {
            "case_id": rollouts["case_id"],
            "round": rollouts["round"],
            "prompt": [shorten(prompt, _SHOWN_CHARACTERS) for prompt in rollouts["prompt"]],
            "d_prev": rollouts["d_prev"],
            "description": [
                outcome.description if isinstance(outcome, Inference) else None
                for outcome in outcomes
            ],
        }
    )
    rest = ["completion", *shown.columns]
    return shown.join(rollouts.drop(columns=[name for name in rest if name in rollouts]))


def _is_well_formed(completion: str) -> bool:
    return isinstance(parse_completion(completion), Inference)


@contextmanager
def _no_warnings_with_user_text() -> Iterator[None]:
    """Silence TRL where it logs a whole row, user text included, that no reward could score."""
    logger = logging.getLogger("trl.trainer.grpo_trainer")

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _check_settings(
    args: GRPOConfig,
    reward_funcs: Reward | list[Reward],
    dataset: Dataset,
    rounds: int,
    round_credit: float,
) -> None:
    """Refuse at once every setting under which rounds, resumes or rewards would be wrong."""
    problems = Problems()
    if not isinstance(dataset, Dataset):
        problems.add(
            f"training data: {type(dataset).__name__} found, expected a datasets.Dataset with a "
            "length: the order of an epoch is drawn over all of its rows"
        )
    elif missing := _ROW_COLUMNS - set(dataset.column_names):
        problems.add(
            f"training data: columns {sorted(missing)} are missing, found {dataset.column_names}"
        )
    elif len(dataset) and max(dataset["round"]) > rounds:
        problems.add(
            f"setting.rounds: {rounds} found, but the training data has rows of round "
            f"{max(dataset['round'])}; prepare the data with the same setting"
        )
    if isinstance(reward_funcs, list) and len(reward_funcs) != 1:
        problems.add(
            f"reward: {len(reward_funcs)} callables found, expected one: beside a second one TRL "
            "counts a missing judgement as 0; combine them in one callable"
        )
    if rounds > 1 and args.num_iterations > 1:
        problems.add(
            f"trainer.num_iterations: {args.num_iterations} found, expected 1 with {rounds} rounds"
        )
    if args.eval_strategy != "no" or args.eval_on_start:
        problems.add(
            f"trainer.eval_strategy: {args.eval_strategy} found, expected no (and eval_on_start "
            "false): checkpoints are scored by the evaluate recipe, not inside training"
        )
    if args.remove_unused_columns:
        problems.add(
            "trainer.remove_unused_columns: true found, expected false: rewards and rounds read "
            "the other columns"
        )
    for problem in misaligned_checkpoints(args):
        problems.add(problem)
    assert args.steps_per_generation is not None  # GRPOConfig fills it in.
    for problem in credit_problems(
        round_credit, rounds, args.steps_per_generation, args.gradient_accumulation_steps
    ):
        problems.add(problem)
    if round_credit:
        problems.found += _other_advantages(args)
    problems.raise_if_any()


def _other_advantages(args: GRPOConfig) -> list[str]:
    """Settings of TRL's advantages that those of credited rewards don't follow."""
    expected = {
        "scale_rewards": "group",
        "multi_objective_aggregation": "sum_then_normalize",
        "reward_weights": None,
    }
    return [
        f"trainer.{key}: {found} found, expected {value} with round_credit"
        for key, value in expected.items()
        if (found := getattr(args, key)) != value
    ]


def misaligned_checkpoints(args: GRPOConfig) -> list[str]:
    """Settings that would put a checkpoint inside a generation batch, in words with arithmetic."""
    batch = _micro_batches(args)
    keys = {"save_steps": args.save_steps} if args.save_strategy == "steps" else {}
    if args.max_steps > 0 and args.save_strategy == "steps":
        keys["max_steps"] = args.max_steps
    accumulated = args.gradient_accumulation_steps
    short_steps = [
        f"trainer.gradient_accumulation_steps: {accumulated} found, expected a divisor or a "
        f"multiple of steps_per_generation x num_iterations = {batch}: a later epoch's steps would "
        "end inside a generation batch"
    ]
    return (short_steps if batch % accumulated and accumulated % batch else []) + [
        f"trainer.{key}: {steps} x gradient_accumulation_steps {args.gradient_accumulation_steps} "
        f"= {steps * args.gradient_accumulation_steps} micro-batches, expected a multiple of "
        f"steps_per_generation x num_iterations = {batch}: a checkpoint is taken only between "
        "generation batches"
        for key, steps in keys.items()
        if steps * args.gradient_accumulation_steps % batch
    ]


def _micro_batches(args: GRPOConfig) -> int:
    """How many micro-batches a generation batch is trained on."""
    assert args.steps_per_generation is not None  # GRPOConfig fills it in.
    return args.steps_per_generation * args.num_iterations

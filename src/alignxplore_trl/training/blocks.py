"""The order of RL: blocks of cases, each in all its rounds before the next block.

All epochs' rows are laid out before training, so that TRL's own sampler and a stock resume follow
them: a block of cases in round 1, the same cases in round 2, and so on, each exactly one generation
batch. With credit across rounds, a block in all its rounds is one generation batch.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

# A case: its rows by round.
Case = list[int]


def micro_batches(args: GRPOConfig) -> int:
    """Micro-batches that a generation batch is trained on."""
    return int(args.steps_per_generation or 1) * args.num_iterations


def in_blocks(rows: Dataset, args: GRPOConfig, rounds: int, together: bool) -> Dataset:
    """Lay out rows as they are trained on: as many generation batches as there will be.

    An epoch's order is a function of (seed, epoch). Cases with fewer rounds make blocks of their
    own. What doesn't fill a block is left out of an epoch, other cases of the next one.

    Args:
        rows: one per case and round.
        rounds: the most rounds of a case.
        together: a block's rounds make one generation batch; cases with fewer are left out.

    Raises:
        UserError: there are too few cases, or a process can't hold all rounds of a case.
    """
    generations = int(args.num_generations or 1)
    prompts = int(args.generation_batch_size or 0) // generations
    if together:
        _check_together(args, rounds * generations)
    size = prompts // rounds if together else prompts
    cases = _by_rounds(rows)
    count = sum(map(len, cases.values()))
    used = {
        number: own
        for number, own in cases.items()
        if len(own) >= size and (number == rounds or not together)
    }
    if not used:
        raise UserError(
            f"data: {count} cases found, expected at least {size} with equally many rounds: a "
            f"generation batch of {args.generation_batch_size} completions (rl."
            "per_device_train_batch_size x processes x rl.steps_per_generation) holds as many x "
            f"{rounds if together else 1} rounds x {generations} generations; lower one of these, "
            "or give more cases"
        )
    if left := count - sum(len(own) // size * size for own in used.values()):
        say(f"rl: {left} of {count} cases don't fill a block of {size} in an epoch")
    per_epoch = sum(len(own) // size * (1 if together else n) for n, own in used.items())
    batches = math.ceil(args.num_train_epochs * per_epoch)
    if args.max_steps > 0:
        steps = args.max_steps * args.gradient_accumulation_steps
        batches = math.ceil(steps / micro_batches(args))
    order: list[int] = []
    epochs: list[int] = []
    for epoch in range(math.ceil(batches / per_epoch)):
        for block in _blocks(used, size, random.Random(f"{args.seed}/{epoch}")):
            parts = block if together else zip(*block, strict=True)
            order += [row for part in parts for row in part]
        epochs += [epoch] * (len(order) - len(epochs))
    laid_out = {"row": order[: batches * prompts], "epoch": epochs[: batches * prompts]}
    # Looked up when a batch is loaded: copied out, four epochs would take four times the memory.
    return Dataset.from_dict(laid_out).with_transform(partial(_look_up, rows))


def _by_rounds(rows: Dataset) -> dict[int, list[Case]]:
    """Cases by their number of rounds, most rounds first; within them as they come."""
    cases: dict[str, dict[int, int]] = defaultdict(dict)
    for place, (case, number) in enumerate(zip(rows["case_id"], rows["round"], strict=True)):
        cases[case][number] = place
    found: dict[int, list[Case]] = defaultdict(list)
    for own in cases.values():
        found[len(own)].append([own[number] for number in sorted(own)])
    return dict(sorted(found.items(), reverse=True))


def _blocks(used: Mapping[int, list[Case]], size: int, draw: random.Random) -> list[list[Case]]:
    blocks = []
    for cases in used.values():
        drawn = draw.sample(cases, len(cases))
        blocks += [drawn[i : i + size] for i in range(0, len(drawn) - size + 1, size)]
    draw.shuffle(blocks)
    return blocks


def _look_up(rows: Dataset, order: Mapping[str, list[int]]) -> dict[str, list[Any]]:
    return {**rows[order["row"]], "epoch": order["epoch"]}


def _check_together(args: GRPOConfig, needed: int) -> None:
    per_device, steps = args.per_device_train_batch_size, int(args.steps_per_generation or 1)
    if per_device * steps % needed:
        raise UserError(
            f"rl.round_credit: a process holds per_device_train_batch_size {per_device} x "
            f"steps_per_generation {steps} = {per_device * steps} completions, expected a multiple "
            f"of rounds x num_generations = {needed}; set rl.gradient_accumulation_steps and "
            "rl.steps_per_generation"
        )

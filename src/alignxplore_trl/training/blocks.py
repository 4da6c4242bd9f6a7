"""The order of RL: a block of cases in round 1, the same cases in round 2, and so on.

All epochs are laid out before training, so that TRL's own sampler and a stock resume follow them.
Each round of a block is one generation batch; with credit across rounds the whole block is one.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import groupby
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

Case = list[int]  # Its rows, by round.


def micro_batches(args: GRPOConfig) -> int:
    """Micro-batches that a generation batch is trained on."""
    return int(args.steps_per_generation or 1) * args.num_iterations


def in_blocks(rows: Dataset, args: GRPOConfig, rounds: int, together: bool) -> Dataset:
    """Lay out rows, one per case and round, as many generation batches as there will be.

    An epoch's order is a function of (seed, epoch). Cases with fewer rounds make blocks of their
    own, or with `together` (a block is one batch) none. A UserError says how many cases are needed.
    """
    group, per_device = int(args.num_generations or 1), args.per_device_train_batch_size
    held = per_device * int(args.steps_per_generation or 1)
    if together and held % (rounds * group):
        raise UserError(
            f"rl.round_credit: a process holds per_device_train_batch_size {per_device} x "
            f"steps_per_generation {args.steps_per_generation} = {held} completions, expected a "
            f"multiple of {rounds} rounds x {group} generations = {rounds * group}"
        )
    prompts = int(args.generation_batch_size or 0) // group
    size = prompts // rounds if together else prompts
    cases = _by_rounds(rows)
    fit = {n: own for n, own in cases.items() if len(own) >= size and (n == rounds or not together)}
    count = sum(map(len, cases.values()))
    if not fit:
        raise UserError(
            f"data: {count} cases found, expected at least {size} with equally many rounds for a "
            f"generation batch of {args.generation_batch_size} completions (rl."
            "per_device_train_batch_size x processes x rl.steps_per_generation)"
        )
    if left := count - sum(len(own) // size * size for own in fit.values()):
        say(f"rl: an epoch leaves out {left} of {count} cases, which don't fill a block of {size}")
    per_epoch = sum(len(own) // size * (1 if together else n) for n, own in fit.items())
    steps = args.max_steps * args.gradient_accumulation_steps
    batches = steps / micro_batches(args) if steps > 0 else args.num_train_epochs * per_epoch
    last = math.ceil(batches) * prompts
    order: list[int] = []
    epochs: list[int] = []
    for epoch in range(math.ceil(batches / per_epoch)):
        for block in _blocks(fit, size, random.Random(f"{args.seed}/{epoch}")):
            parts = block if together else zip(*block, strict=True)
            order += (row for part in parts for row in part)
        epochs += [epoch] * (len(order) - len(epochs))
    laid_out = Dataset.from_dict({"row": order[:last], "epoch": epochs[:last]})
    # Looked up when a batch is loaded: copied out, four epochs would take four times the memory.
    return laid_out.with_transform(partial(_look_up, rows))


def _by_rounds(rows: Dataset) -> dict[int, list[Case]]:
    """Cases by their number of rounds, most rounds first."""
    names, numbers = rows["case_id"][:], rows["round"][:]
    cases: dict[str, Case] = defaultdict(list)
    for place in sorted(range(len(rows)), key=numbers.__getitem__):
        cases[names[place]].append(place)
    ordered = sorted(cases.values(), key=len, reverse=True)
    return {count: [*own] for count, own in groupby(ordered, key=len)}


def _blocks(fit: Mapping[int, list[Case]], size: int, draw: random.Random) -> list[list[Case]]:
    drawn = [draw.sample(cases, len(cases)) for cases in fit.values()]
    blocks = [own[i : i + size] for own in drawn for i in range(0, len(own) - size + 1, size)]
    draw.shuffle(blocks)
    return blocks


def _look_up(rows: Dataset, order: Mapping[str, list[int]]) -> dict[str, list[Any]]:
    return {**rows[order["row"]], "epoch": order["epoch"]}

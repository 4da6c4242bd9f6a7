"""The order in which cases are trained on: blocks of cases, round after round."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from alignxplore_trl.run.errors import Problems, UserError


@dataclass(frozen=True)
class BlockCounts:
    """What of a data set an epoch uses.

    Attributes:
        cases: cases in the data set.
        blocks: blocks of cases in an epoch.
        generation_batches: generation batches in an epoch, one per block and round.
        left_out: cases that no block has room for; which ones changes from epoch to epoch.
        never_used: cases that no epoch uses: too few have as many rounds for a block of their own,
            or they have another number of rounds than all have to have.
    """

    cases: int
    blocks: int
    generation_batches: int
    left_out: int
    never_used: int


class RoundBlockSampler(Sampler[int]):
    """Yields block B of cases in round 1, block B in round 2, …, then the next block.

    A block has `cases_per_block` cases that have equally many rounds. Each of its rounds is exactly
    one generation batch: every row `generations` times in a row, and all of that `repeats` times,
    as TRL's `RepeatSampler` lays it out. The order is a function of (seed, epoch) alone: it is the
    same on every process and after a resume.

    Args:
        case_ids, rounds: of each row of the data set; rounds count from 1.
        cases_per_block: generation batch size divided by `generations`.
        generations: completions per prompt, the size of a GRPO group.
        repeats: how often TRL asks for the same generation batch: `num_iterations x
            steps_per_generation`.
        seed: of the order.
        shuffle: whether cases and blocks change places from epoch to epoch.
        only_rounds: cases with another number of rounds are never used; `None`: all are.

    Raises:
        UserError: a case lacks a round or has one twice, or no block can be filled.
    """

    def __init__(
        self,
        case_ids: Sequence[str],
        rounds: Sequence[int],
        *,
        cases_per_block: int,
        generations: int,
        repeats: int,
        seed: int,
        shuffle: bool = True,
        only_rounds: int | None = None,
    ) -> None:
        self.cases_per_block = cases_per_block
        self.generations = generations
        self.repeats = repeats
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._cases = _cases_by_round_count(_rows_by_case(case_ids, rounds))
        self.only_rounds = only_rounds
        self.counts = self._count()
        if not self.counts.blocks:
            raise UserError(self._too_few_cases())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for block in self._blocks():
            for rows_of_round in zip(*block, strict=True):
                for _ in range(self.repeats):
                    for row in rows_of_round:
                        yield from [row] * self.generations

    def __len__(self) -> int:
        batch = self.cases_per_block * self.generations * self.repeats
        return self.counts.generation_batches * batch

    def _blocks(self) -> list[list[tuple[int, ...]]]:
        """The blocks of this epoch; a block lists its cases, a case its rows by round."""
        draw = random.Random(f"{self.seed}/{self.epoch}")
        blocks = []
        for cases in self._used().values():
            order = draw.sample(cases, len(cases)) if self.shuffle else cases
            size = self.cases_per_block
            blocks += [order[i * size : (i + 1) * size] for i in range(len(order) // size)]
        if self.shuffle:
            draw.shuffle(blocks)
        return blocks

    def _used(self) -> dict[int, list[tuple[int, ...]]]:
        """The cases that may stand in a block, by their number of rounds."""
        return {
            rounds: cases
            for rounds, cases in self._cases.items()
            if self.only_rounds in (None, rounds)
        }

    def _count(self) -> BlockCounts:
        size = self.cases_per_block
        sizes = {rounds: len(cases) for rounds, cases in self._used().items()}
        given = sum(len(cases) for cases in self._cases.values())
        return BlockCounts(
            cases=given,
            blocks=sum(count // size for count in sizes.values()),
            generation_batches=sum(rounds * (count // size) for rounds, count in sizes.items()),
            left_out=sum(count % size for count in sizes.values() if count >= size),
            never_used=given - sum(count for count in sizes.values() if count >= size),
        )

    def _too_few_cases(self) -> str:
        found = ", ".join(
            f"{len(cases)} with {rounds} round{'s' if rounds > 1 else ''}"
            for rounds, cases in self._cases.items()
        )
        expected = f"{self.only_rounds or 'equally many'} rounds"
        return (
            f"training data: {found or 'no cases'} found, expected at least {self.cases_per_block} "
            f"cases with {expected}: a generation batch of "
            f"{self.cases_per_block * self.generations} completions "
            f"(per_device_train_batch_size x processes x steps_per_generation) holds "
            f"{self.cases_per_block} cases x {self.generations} generations. Give more cases, or "
            f"lower trainer.per_device_train_batch_size or trainer.steps_per_generation"
        )


def _rows_by_case(case_ids: Sequence[str], rounds: Sequence[int]) -> list[tuple[int, ...]]:
    """The rows of each case by round, cases in the order of their first row."""
    rows: dict[str, dict[int, int]] = defaultdict(dict)
    problems = Problems()
    for row, (case_id, round_number) in enumerate(zip(case_ids, rounds, strict=True)):
        if round_number in rows[case_id]:
            problems.add(
                f"training data, row {row}: case {case_id} has round {round_number} in row "
                f"{rows[case_id][round_number]} already; expected one row per case and round"
            )
        rows[case_id][round_number] = row
    for case_id, by_round in rows.items():
        if sorted(by_round) != list(range(1, len(by_round) + 1)):
            problems.add(
                f"training data: case {case_id} has rounds {sorted(by_round)}, expected 1 to "
                f"{max(len(by_round), *by_round)} without a gap"
            )
    problems.raise_if_any()
    return [tuple(by_round[number] for number in sorted(by_round)) for by_round in rows.values()]


def _cases_by_round_count(cases: Sequence[tuple[int, ...]]) -> dict[int, list[tuple[int, ...]]]:
    """Cases grouped by how many rounds they have, most rounds first."""
    groups: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for case in cases:
        groups[len(case)].append(case)
    return {count: groups[count] for count in sorted(groups, reverse=True)}

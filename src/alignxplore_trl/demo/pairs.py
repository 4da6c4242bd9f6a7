"""The pairs of replies that visitors choose from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignxplore_trl.data.rows import raise_the_first
from alignxplore_trl.data.world import World
from alignxplore_trl.inference.signal_files import read_user_signals
from alignxplore_trl.run.errors import Problems
from alignxplore_trl.signals import Comparison

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Pair:
    """Two replies to a post, or two things in a list, as they are shown."""

    post: str
    left: str
    right: str
    form: Literal["replies", "items"] = "replies"

    def chosen(self, side: Side) -> Comparison:
        """The signal that the choice of a side is."""
        left = Comparison(self.post, self.left, self.right, self.form)
        return left if side == "left" else left.reversed()


def pairs_of(comparisons: Sequence[Comparison], seed: int) -> tuple[Pair, ...]:
    """Comparisons as pairs in the same order, without a sign of which reply was once chosen."""
    draw = random.Random(seed)
    sides = [each if draw.random() < 0.5 else each.reversed() for each in comparisons]
    return tuple(Pair(own.post, own.chosen, own.rejected, own.form) for own in sides)


def world_comparisons(world: World, users: int) -> list[Comparison]:
    """What the first test users of the world compared, user after user."""
    signals = [signal for case in world.cases("test", users) for signal in case.signals]
    return [signal for signal in signals if isinstance(signal, Comparison)]


def read_comparisons(path: Path) -> list[Comparison]:
    """The comparisons of a file, in its order.

    Raises:
        UserError: it can't be read, or has rows that are something else.
    """
    problems = Problems()
    signals = [row.signal for row in read_user_signals(path)]
    for number, signal in enumerate(signals, 1):
        if not isinstance(signal, Comparison):
            problems.add(
                f"demo.pairs: {path}, row {number}, kind: {signal.kind} found, expected a "
                "comparison (post, chosen, rejected), which a visitor can choose from; take the "
                "row out"
            )
    raise_the_first(problems, path)
    return [signal for signal in signals if isinstance(signal, Comparison)]

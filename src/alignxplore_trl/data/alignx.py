"""ALIGNX, or rows in its shape -> cases, refined by the paper's rules where rows have directions.

The rules (arXiv:2505.18071, data construction): a target pair has at least five non-neutral
dimensions, a history item agrees with it there, and no two kept items have opposite directions on
any dimension; of two in conflict the later one goes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import replace
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Attributes, Case, Comparison, Post, Signal
from alignxplore_trl.data.rows import Name, Problems, read_as
from alignxplore_trl.data.splits import connected, split_cases, with_signals
from alignxplore_trl.data.world import SignalKind
from alignxplore_trl.run.progress import progress, say

PAIRS, DIRECTIONS = "Pair-wise Comparative Feedback", "Preference Direction"
NEUTRAL = 0.5
# Of the rows that pass, so many times as many as splits need are kept in memory, drawn by chance.
_KEPT = 4
# The values of a direction vector, one object each however many vectors there are.
_EXACT = {0: 0.0, NEUTRAL: NEUTRAL, 1: 1.0}
Vector = list[float] | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dimension:
    """One entry of a direction vector: its name, and what 1 and 0 say after "This user"."""

    name: str
    positive: str
    negative: str


class PairItem(msgspec.Struct):
    """A comparison as it stands in a row."""

    prompt: str
    chosen: str
    rejected: str
    direction: Vector = msgspec.field(default=None, name=DIRECTIONS)

    def signal(self) -> Comparison:
        """What it says about the user."""
        return Comparison(self.prompt, self.chosen, self.rejected)


class _PostItem(msgspec.Struct):
    prompt: str
    comment: str
    direction: Vector = msgspec.field(default=None, name=DIRECTIONS)

    def signal(self) -> Post:
        return Post(self.prompt, self.comment)


class AlignxRow(PairItem):
    """A row: the target pair and the history."""

    user: Name | None = None
    about: str | None = msgspec.field(default=None, name="Demographic Information")
    posts: list[_PostItem] | None = msgspec.field(default=None, name="User-Generated Content")
    pairs: list[PairItem] | None = msgspec.field(default=None, name=PAIRS)

    def __post_init__(self) -> None:
        check_target(self.signal(), self.pairs or ())

    def items(self) -> list[PairItem | _PostItem]:
        """The target and the history."""
        return [self, *(self.posts or ()), *(self.pairs or ())]

    def case(self, name: str, kind: SignalKind, dimensions: Sequence[Dimension]) -> Case:
        """A case with all signals of a kind; mixed are the attributes, posts, then comparisons.

        The target's vector tells its truth, if there is one.
        """
        items = [*((self.posts or ()) if kind != "comparisons" else ())]
        items += (self.pairs or ()) if kind != "posts" else ()
        about = [Attributes(self.about)] if kind == "mixed" and self.about else []
        told = (*([] for _ in about), *(item.direction or [] for item in items))
        vectors = tuple(tuple(_EXACT.get(value, value) for value in vector) for vector in told)
        poles = {
            dimension.name: dimension.positive if value == 1 else dimension.negative
            for value, dimension in zip(self.direction or (), dimensions, strict=False)
            if value != NEUTRAL
        }
        return Case(
            case_id=name,
            user_id="" if self.user is None else str(self.user),
            signals=(*about, *(item.signal() for item in items)),
            target=self.signal(),
            directions=poles or None,
            description=describe(poles),
            vectors=vectors if any(vectors) else None,
        )


# The case of a row, and what makes its user.
_Passed = tuple[Case, list[int]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignX:
    """A data source, with the keys of conf/data/alignx.yaml."""

    path: str
    sizes: dict[str, int]
    rounds: PositiveInt
    signals: PositiveInt
    dimensions: list[Dimension]
    signal_kind: SignalKind = "comparisons"
    refine: bool | None = None
    minimum_dimensions: int = 5
    agreement: Literal["some", "all"] = "some"
    bad_rows: Literal["refuse", "leave_out"] = "refuse"

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read, refine and split; see `data.prepare.Source`."""
        most = _KEPT * sum(self.sizes.values())
        cases = _with_users(_sample(self._passing(counts), most, seed), counts)
        return split_cases(cases, self.sizes, self.rounds * self.signals, seed, counts)

    def _passing(self, counts: Counter[str]) -> Iterator[_Passed]:
        """The rows that give a case; the others are counted, by reason, or mistakes."""
        problems, length = Problems(), len(self.dimensions)
        for source, row in progress(read_as(self.path, AlignxRow, problems), "reading rows"):
            vectors = [item.direction for item in row.items() if item.direction is not None]
            if any(len(own) != length or not set(own) <= _EXACT.keys() for own in vectors):
                problems.append(
                    f"{source.place}, {DIRECTIONS}: expected 0, 0.5 or 1 for each of the {length} "
                    "data.dimensions"
                )
                continue
            counts["rows"] += 1
            counts["rows_without_directions"] += row.direction is None
            if case := self._case(source.name, row, counts):
                counts["rows_passed"] += 1
                keys = [row.user] if row.user is not None else [i.signal() for i in row.items()]
                yield case, [*map(hash, keys)]
        if self.bad_rows == "refuse":
            problems.raise_if_any("mend them, or leave them out by data.bad_rows=leave_out")
        for problem in problems[:20]:
            say(f"left out: {problem}")
        counts["rows_dropped/bad"] = len(problems)

    def _case(self, name: str, row: AlignxRow, counts: Counter[str]) -> Case | None:
        """The case of a row, without its user; what is left out is counted, by reason."""
        direction = row.direction or []
        refine = bool(direction) if self.refine is None else self.refine
        if refine and len(direction) - direction.count(NEUTRAL) < self.minimum_dimensions:
            counts[f"rows_dropped/{'few_dimensions' if direction else 'no_directions'}"] += 1
            return None
        case = row.case(name, self.signal_kind, self.dimensions)
        case = with_signals(case, _telling(case.signals, counts))
        if refine and case.vectors:
            case = with_signals(case, [*self._agreeing(direction, case.vectors, counts)])
        if len(case.signals) < self.rounds * self.signals:
            counts["rows_dropped/too_few_signals"] += 1
            return None
        return case

    def _agreeing(
        self, direction: Sequence[float], vectors: Sequence[Sequence[float]], counts: Counter[str]
    ) -> Iterator[int]:
        """The places of items that agree with the target, without conflict with an earlier one.

        An item without a vector stays, since nothing speaks against it.
        """
        held = target = np.array(direction)
        active = target != NEUTRAL
        least = active.sum() if self.agreement == "all" else self.minimum_dimensions
        for place, vector in enumerate(vectors):
            codes = np.array(vector) if vector else target
            if ((codes == target) & active).sum() < least:
                counts["signals_dropped/other_directions"] += 1
            elif ((codes != held) & (codes != NEUTRAL) & (held != NEUTRAL)).any():
                counts["signals_dropped/conflict"] += 1
            else:
                held = np.where(held == NEUTRAL, codes, held)
                yield place


def check_target(target: Comparison, pairs: Iterable[PairItem]) -> None:
    """Raise a `ValueError` for a target pair that is none, or that its own history gives away."""
    if not says_something(target):
        raise ValueError("expected a post and two different replies as the target pair")
    if any(pair.signal().shows_pair_of(target) for pair in pairs):
        raise ValueError(f"{PAIRS} holds the target pair, which gives it away; remove it there")


def describe(poles: Mapping[str, str]) -> str | None:
    """The description that states these poles, the true one; `None` without any."""
    return f"This user {'; '.join(poles.values())}." if poles else None


def says_something(signal: Signal) -> bool:
    """Whether no text of a signal is empty, and its replies differ."""
    if isinstance(signal, Comparison) and signal.chosen == signal.rejected:
        return False
    return all(text.strip() for text in msgspec.structs.astuple(signal))


def _telling(signals: Sequence[Signal], counts: Counter[str]) -> list[int]:
    """The places of signals that say something, and not again what one before them says."""
    first = dict.fromkeys(map(signals.index, signals))
    telling = [place for place in first if says_something(signals[place])]
    counts["signals_dropped/repeated"] += len(signals) - len(first)
    counts["signals_dropped/no_text_or_equal_replies"] += len(first) - len(telling)
    return telling


def _sample(rows: Iterable[_Passed], most: int, seed: int) -> list[_Passed]:
    """So many of them at most, of more by chance, so that they fit into memory (a reservoir)."""
    draw, kept = random.Random(seed), list[_Passed]()
    for seen, row in enumerate(rows, 1):
        place = len(kept) if seen <= most else draw.randrange(seen)
        if place < most:
            kept[place : place + 1] = [row]
    return kept


def _with_users(rows: Sequence[_Passed], counts: Counter[str]) -> list[Case]:
    """The cases: rows without a name that share a signal, also through others, are of one user.

    Attributes alone make no user, since strangers have the same.
    """
    parts, users, named = connected(keys for _, keys in rows), dict[int, str](), list[Case]()
    for part, (case, _) in zip(parts, rows, strict=True):
        user = users.setdefault(part, case.user_id or f"{case.case_id}-user")
        named.append(replace(case, user_id=user))
    counts["users"] = len(users)
    if len(users) < len(rows) and not all(case.user_id for case, _ in rows):
        say(
            f"rows without a user are joined where they share a signal: {len(rows):,} rows are of "
            f"{len(users):,} users, the largest has {max(Counter(parts).values()):,}"
        )
    return named

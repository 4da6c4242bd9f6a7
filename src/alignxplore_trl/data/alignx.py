"""ALIGNX, or rows in its shape -> cases, refined by the paper's rules where rows have directions.

The rules (arXiv:2505.18071, data construction): a target pair has at least five non-neutral
dimensions, a history item agrees with it there, and no two kept items have opposite directions on
any dimension; of two in conflict the later one goes.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Attributes, Case, Comparison, Post, Signal
from alignxplore_trl.data.rows import Problems, convert, read_rows
from alignxplore_trl.data.splits import connected, split_cases
from alignxplore_trl.data.world import SignalKind
from alignxplore_trl.run.progress import progress, say

PAIRS, DIRECTIONS = "Pair-wise Comparative Feedback", "Preference Direction"
NEUTRAL = 0.5
TEST_POSTS = "test_posts"
# Of rows that pass, so many times as many as splits need are kept in memory, drawn by chance.
_KEPT = 4
# The values of a direction vector, one object each however many vectors there are.
_EXACT = {0: 0.0, NEUTRAL: NEUTRAL, 1: 1.0}
Vector = list[float] | None
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dimension:
    """One entry of a direction vector: its name, and what 1 and 0 mean for the user.

    `positive` and `negative` are ends of a sentence that starts with "This user".
    """

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
        """The comparison."""
        return Comparison(self.prompt, self.chosen, self.rejected)


class PostItem(msgspec.Struct):
    """A comment as it stands in a row."""

    prompt: str
    comment: str
    direction: Vector = msgspec.field(default=None, name=DIRECTIONS)

    def signal(self) -> Post:
        """The comment."""
        return Post(self.prompt, self.comment)


class AlignxRow(PairItem):
    """A row: the target pair and the history."""

    user: str | int | None = None
    about: str | None = msgspec.field(default=None, name="Demographic Information")
    posts: list[PostItem] | None = msgspec.field(default=None, name="User-Generated Content")
    pairs: list[PairItem] | None = msgspec.field(default=None, name=PAIRS)

    def __post_init__(self) -> None:
        """What the format asks for beside types; msgspec reports it as a mistake in the row."""
        target = self.signal()
        if not says_something(target):
            raise ValueError(
                "expected a post and two different replies in prompt, chosen, rejected"
            )
        if any(pair.signal().shows_pair_of(target) for pair in self.pairs or ()):
            raise ValueError(f"{PAIRS} holds the target pair, which gives it away; remove it there")

    def history(self, kind: SignalKind) -> Iterator[tuple[Signal, Vector]]:
        """The signals of a kind; mixed are the attributes, then posts, then comparisons."""
        if kind == "mixed" and self.about:
            yield Attributes(self.about), None
        if kind != "comparisons":
            yield from ((item.signal(), item.direction) for item in self.posts or ())
        if kind != "posts":
            yield from ((item.signal(), item.direction) for item in self.pairs or ())


COLUMNS = frozenset(field.encode_name for field in msgspec.structs.fields(AlignxRow))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignX:
    """A data source.

    Attributes:
        path: see `read_rows`.
        sizes: cases of each split. `test_posts` is a further test, of users whose history is posts;
            it may stay empty.
        rounds, signals: the setting; a case has signals for all of its rounds.
        dimensions: the entries of a direction vector, in order.
        signal_kind: what a history is made of; mixed has the user's attributes, too.
        refine: whether rows are refined; `None`: if the first one has a direction vector.
        minimum_dimensions: non-neutral dimensions that a target pair must have.
        agreement: an item agrees with the target on `minimum_dimensions` of the target's
            non-neutral ones (`some`, which keeps more rows), or on all of them (`all`).
        test_posts_signals: posts that a case of `test_posts` has at least.
        bad_rows: whether rows that aren't in the format end the run (`refuse`), or are reported,
            counted and left out (`leave_out`).
    """

    path: str
    sizes: dict[str, int]
    rounds: PositiveInt
    signals: PositiveInt
    dimensions: list[Dimension]
    signal_kind: SignalKind = "comparisons"
    refine: bool | None = None
    minimum_dimensions: int = 5
    agreement: Literal["some", "all"] = "some"
    test_posts_signals: PositiveInt = 4
    bad_rows: Literal["refuse", "leave_out"] = "refuse"

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read, refine and split; see `data.prepare.Source`."""
        sizes = {split: size for split, size in self.sizes.items() if split != TEST_POSTS}
        asked, of_posts = sum(self.sizes.values()), self.sizes.get(TEST_POSTS, 0)
        samples = {"": _Sample(_KEPT * asked, seed), TEST_POSTS: _Sample(_KEPT * of_posts, seed)}
        needed = self.rounds * self.signals
        users, refine = _Users(), self.refine
        for name, row in self._rows(counts):
            number = users.add(name, row)
            if refine is None:
                refine = row.direction is not None
                if not refine:
                    say("the first row has no direction vector: rows aren't refined")
            case = self._case(name, row, self.signal_kind, needed, refine, counts)
            samples[""].add(number, case)
            if of_posts:
                unused: Counter[str] = Counter()
                case = self._case(name, row, "posts", self.test_posts_signals, refine, unused)
                samples[TEST_POSTS].add(number, case)
        names = users.names(counts)
        own, others = (
            [_of_user(case, names[number]) for number, case in sample.kept]
            for sample in samples.values()
        )
        counts["rows_passed"] = samples[""].seen
        splits: dict[str, list[Case]] = {}
        if others:
            counts["rows_passed_with_posts"] = samples[TEST_POSTS].seen
            # A user is in one split alone: with few, each split has its share of them.
            usable = len({case.user_id for case in (*own, *others)})
            some = {TEST_POSTS: ceil(of_posts * min(1.0, usable / asked))}
            splits = split_cases(others, some, self.test_posts_signals, seed, Counter())
            taken = {case.user_id for case in splits[TEST_POSTS]}
            own = [case for case in own if case.user_id not in taken]
        return splits | split_cases(own, sizes, needed, seed, counts, filled=splits)

    def _rows(self, counts: Counter[str]) -> Iterator[tuple[str, AlignxRow]]:
        """The rows that are in the format, with their names."""
        problems = Problems()
        for source in progress(read_rows(self.path, COLUMNS, problems), "reading rows"):
            row = convert(source, AlignxRow, problems)
            if row is None:
                continue
            items = (row, *(row.posts or ()), *(row.pairs or ()))
            if wrong := [item.direction for item in items if not self._is_vector(item.direction)]:
                problems.add(
                    f"{source.place}, {DIRECTIONS}: {len(wrong[0] or ())} numbers found, expected "
                    f"{len(self.dimensions)}, each 0, 0.5 or 1, one for each of data.dimensions"
                )
                continue
            counts["rows"] += 1
            yield source.name, row
        if self.bad_rows == "refuse":
            problems.raise_if_any("mend them, or leave such rows out by data.bad_rows=leave_out")
        for problem in problems.shown:
            say(f"left out: {problem}")
        counts["rows_dropped/bad"] = problems.count

    def _is_vector(self, vector: Vector) -> bool:
        return vector is None or (
            len(vector) == len(self.dimensions) and _EXACT.keys() >= set(vector)
        )

    def _case(
        self,
        name: str,
        row: AlignxRow,
        kind: SignalKind,
        needed: int,
        refine: bool,
        counts: Counter[str],
    ) -> Case | None:
        """The case of a row; what is left out is counted, by reason."""
        direction = row.direction or []
        if refine and len(direction) - direction.count(NEUTRAL) < self.minimum_dimensions:
            counts[f"rows_dropped/{'few' if direction else 'no'}_directions"] += 1
            return None
        history = list(_telling(row.history(kind), counts))
        if refine:
            history = list(self._refined(np.array(direction), history, counts))
        if len(history) < needed:
            counts["rows_dropped/too_few_signals"] += 1
            return None
        poles = preferred_poles(direction, self.dimensions)
        vectors = tuple(tuple(map(_EXACT.__getitem__, vector or ())) for _, vector in history)
        return Case(
            case_id=name,
            user_id="" if row.user is None else str(row.user),
            signals=tuple(signal for signal, _ in history),
            target=row.signal(),
            directions=poles or None,
            description=describe(poles),
            vectors=vectors if any(vectors) else None,
        )

    def _refined(
        self, target: Numbers, history: Iterable[tuple[Signal, Vector]], counts: Counter[str]
    ) -> Iterator[tuple[Signal, Vector]]:
        """The items that agree with the target and don't conflict with an earlier one.

        An item without a vector stays, since nothing speaks against it.
        """
        active, held = target != NEUTRAL, target.copy()
        least = active.sum() if self.agreement == "all" else self.minimum_dimensions
        for signal, vector in history:
            codes = target if vector is None else np.array(vector)
            if ((codes == target) & active).sum() < least:
                counts["signals_dropped/other_directions"] += 1
            elif ((codes != held) & (codes != NEUTRAL) & (held != NEUTRAL)).any():
                counts["signals_dropped/conflict"] += 1
            else:
                held = np.where(held == NEUTRAL, codes, held)
                yield signal, vector


def preferred_poles(direction: Iterable[float], dimensions: Sequence[Dimension]) -> dict[str, str]:
    """The non-neutral entries of a direction vector: dimension -> the preferred pole."""
    return {
        dimension.name: dimension.positive if value == 1 else dimension.negative
        for value, dimension in zip(direction, dimensions, strict=False)
        if value != NEUTRAL
    }


def describe(poles: dict[str, str]) -> str | None:
    """The description that states these poles, the true one; `None` without any."""
    return f"This user {'; '.join(poles.values())}." if poles else None


def says_something(signal: Signal) -> bool:
    """Whether no text of a signal is empty, and its replies differ."""
    if isinstance(signal, Comparison) and signal.chosen == signal.rejected:
        return False
    return all(text.strip() for text in msgspec.structs.astuple(signal))


def _telling(
    history: Iterable[tuple[Signal, Vector]], counts: Counter[str]
) -> Iterator[tuple[Signal, Vector]]:
    seen: set[Signal] = set()
    for signal, vector in history:
        if signal in seen:
            counts["signals_dropped/repeated"] += 1
        elif says_something(signal):
            seen.add(signal)
            yield signal, vector
        else:
            counts["signals_dropped/no_text_or_equal_replies"] += 1


def _of_user(case: Case, user: str) -> Case:
    return case if case.user_id else msgspec.structs.replace(case, user_id=user)


class _Users:
    """Which rows are of one user: those with the same name or, without names, a signal in common.

    Attributes alone make no user, since strangers have the same.
    """

    def __init__(self) -> None:
        self.rows: list[str] = []
        # One behind the other, the hashes of what connects rows, and the row of each.
        self.keys, self.rows_of_keys = array("q"), array("q")
        self.nameless = 0

    def add(self, name: str, row: AlignxRow) -> int:
        """Note a row, and give its number."""
        items = (row, *(row.posts or ()), *(row.pairs or ()))
        keys = [hash(i.signal()) for i in items] if row.user is None else [hash(str(row.user))]
        self.keys.extend(keys)
        self.rows_of_keys.extend([len(self.rows)] * len(keys))
        self.rows.append(name)
        self.nameless += row.user is None
        return len(self.rows) - 1

    def names(self, counts: Counter[str]) -> list[str]:
        """What the user of each row is called: after the first of their rows."""
        _, numbers, uses = np.unique(self.keys, return_inverse=True, return_counts=True)
        shared = uses[numbers] > 1
        parts = connected(np.asarray(self.rows_of_keys)[shared], numbers[shared], len(self.rows))
        _, first, user, sizes = np.unique(
            parts, return_index=True, return_inverse=True, return_counts=True
        )
        counts["users"] = len(first)
        if self.nameless and len(first) < len(self.rows):
            say(
                f"{self.nameless:,} rows have no user, and are joined where they share a signal: "
                f"{len(self.rows):,} rows are of {len(first):,} users, the largest has "
                f"{sizes.max():,}"
            )
        return [f"{self.rows[row]}-user" for row in first[user]]


class _Sample:
    """As many cases as are wanted at most, of more by chance (reservoir sampling)."""

    def __init__(self, most: int, seed: int) -> None:
        self.most = most
        self.draw = random.Random(seed)
        self.seen = 0
        self.kept: list[tuple[int, Case]] = []

    def add(self, number: int, case: Case | None) -> None:
        """Keep the case of a row, or leave it out."""
        if case is None:
            return
        self.seen += 1
        place = len(self.kept) if self.seen <= self.most else self.draw.randrange(self.seen)
        if place < self.most:
            self.kept[place : place + 1] = [(number, case)]

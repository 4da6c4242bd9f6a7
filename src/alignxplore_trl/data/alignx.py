"""ALIGNX, or rows in its shape -> cases, refined by the paper's rules where rows have directions.

The rules (arXiv:2505.18071, data construction): a target pair has at least five non-neutral
dimensions, a history item agrees with it there, and no two kept items have opposite directions on
any dimension; of two in conflict the later one goes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Attributes, Case, Comparison, Post, Signal
from alignxplore_trl.data.rows import Name, Problems, read_as
from alignxplore_trl.data.splits import connected, split_cases
from alignxplore_trl.data.world import SignalKind
from alignxplore_trl.run.progress import progress, say

PAIRS, DIRECTIONS = "Pair-wise Comparative Feedback", "Preference Direction"
NEUTRAL = 0.5
TEST_POSTS = "test_posts"
# Of the rows that pass, so many times as many as splits need are kept in memory, drawn by chance.
_KEPT = 4
# The values of a direction vector, one object each however many vectors there are.
_EXACT = {0: 0.0, NEUTRAL: NEUTRAL, 1: 1.0}
Vector = list[float] | None
Told = tuple[Signal, Vector]


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
        """The comparison."""
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
        """What the format asks for beside types; a `ValueError` is reported with the row."""
        check_target(self.signal(), self.pairs or ())
        if not _EXACT.keys() >= set().union(*(item.direction or () for item in self.items())):
            raise ValueError(f"{DIRECTIONS}: expected no other numbers than 0, 0.5 and 1")

    def items(self) -> Iterator[PairItem | _PostItem]:
        """The target and the history."""
        yield from (self, *(self.posts or ()), *(self.pairs or ()))

    def history(self, kind: SignalKind) -> Iterator[Told]:
        """The signals of a kind; mixed are the attributes, then posts, then comparisons."""
        if kind == "mixed" and self.about:
            yield Attributes(self.about), None
        if kind != "comparisons":
            yield from ((item.signal(), item.direction) for item in self.posts or ())
        if kind != "posts":
            yield from ((item.signal(), item.direction) for item in self.pairs or ())


class _Candidate(NamedTuple):
    """What a row gives: its cases, by the further test they are for, and what makes its user."""

    name: str
    views: dict[str, Case | None]
    keys: list[int]
    user: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignX:
    """A data source, with the keys of conf/data/alignx.yaml.

    `test_posts` among the sizes is a further test, of users whose history is posts. It may stay
    empty.
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
        asked, needed = sum(self.sizes.values()), self.rounds * self.signals
        found = _sample(self._candidates(counts), _KEPT * asked, seed)
        names = _users(found, counts)
        own, others = (
            [
                msgspec.structs.replace(case, user_id=names[place])
                for place, candidate in enumerate(found)
                if (case := candidate.views.get(kind)) is not None
            ]
            for kind in ("", TEST_POSTS)
        )
        splits: dict[str, list[Case]] = {}
        if others:
            # A user is in one split alone: with few, each split has its share of them.
            share = min(1.0, len(set(names)) / asked)
            some = {TEST_POSTS: ceil(self.sizes[TEST_POSTS] * share)}
            splits = split_cases(others, some, self.test_posts_signals, seed, Counter())
            taken = {case.user_id for case in splits[TEST_POSTS]}
            own = [case for case in own if case.user_id not in taken]
        sizes = {split: size for split, size in self.sizes.items() if split != TEST_POSTS}
        return splits | split_cases(own, sizes, needed, seed, counts, filled=splits)

    def _candidates(self, counts: Counter[str]) -> Iterator[_Candidate]:
        """The rows that give a case; the others are counted, by reason, or mistakes."""
        problems, length = Problems(), len(self.dimensions)
        kinds: dict[str, tuple[SignalKind, int]] = {
            "": (self.signal_kind, self.rounds * self.signals),
            TEST_POSTS: ("posts", self.test_posts_signals),
        }
        for source, row in progress(read_as(self.path, AlignxRow, problems), "reading rows"):
            vectors = (item.direction for item in row.items())
            if wrong := {len(vector) for vector in vectors if vector is not None} - {length}:
                problems.add(
                    f"{source.place}, {DIRECTIONS}: {min(wrong)} numbers found, expected {length}, "
                    "one for each of data.dimensions"
                )
                continue
            counts["rows"] += 1
            counts["rows_without_directions"] += row.direction is None
            views = {
                test: self._case(source.name, row, *kind, Counter() if test else counts)
                for test, kind in kinds.items()
                if not test or self.sizes.get(test)
            }
            counts["rows_passed"] += views[""] is not None
            if any(views.values()):
                user = [] if row.user is None else [hash(str(row.user))]
                keys = user or [hash(item.signal()) for item in row.items()]
                yield _Candidate(source.name, views, keys, str(row.user) if user else "")
        if self.bad_rows == "refuse":
            problems.raise_if_any("mend them, or leave them out by data.bad_rows=leave_out")
        for problem in problems.shown:
            say(f"left out: {problem}")
        counts["rows_dropped/bad"] = problems.count

    def _case(
        self, name: str, row: AlignxRow, kind: SignalKind, needed: int, counts: Counter[str]
    ) -> Case | None:
        """The case of a row, without its user; what is left out is counted, by reason."""
        direction = row.direction or []
        refine = bool(direction) if self.refine is None else self.refine
        if refine and len(direction) - direction.count(NEUTRAL) < self.minimum_dimensions:
            counts[f"rows_dropped/{'few_dimensions' if direction else 'no_directions'}"] += 1
            return None
        history = list(_telling(row.history(kind), counts))
        if refine:
            history = list(self._refined(np.array(direction), history, counts))
        if len(history) < needed:
            counts["rows_dropped/too_few_signals"] += 1
            return None
        poles = preferred_poles(direction, self.dimensions)
        return Case(
            case_id=name,
            user_id="",
            signals=tuple(signal for signal, _ in history),
            target=row.signal(),
            directions=poles or None,
            description=describe(poles),
            vectors=exact_vectors(vector for _, vector in history),
        )

    def _refined(
        self, target: npt.NDArray[np.float64], history: Iterable[Told], counts: Counter[str]
    ) -> Iterator[Told]:
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


def check_target(target: Comparison, pairs: Iterable[PairItem]) -> None:
    """Raise a `ValueError` for a target pair that is none, or that its own history gives away."""
    if not says_something(target):
        raise ValueError("expected a post and two different replies as the target pair")
    if any(pair.signal().shows_pair_of(target) for pair in pairs):
        raise ValueError(f"{PAIRS} holds the target pair, which gives it away; remove it there")


def preferred_poles(direction: Iterable[float], dimensions: Sequence[Dimension]) -> dict[str, str]:
    """The non-neutral entries of a direction vector: dimension -> the preferred pole."""
    return {
        dimension.name: dimension.positive if value == 1 else dimension.negative
        for value, dimension in zip(direction, dimensions, strict=False)
        if value != NEUTRAL
    }


def describe(poles: Mapping[str, str]) -> str | None:
    """The description that states these poles, the true one; `None` without any."""
    return f"This user {'; '.join(poles.values())}." if poles else None


def exact_vectors(vectors: Iterable[Vector]) -> tuple[tuple[float, ...], ...] | None:
    """`Case.vectors`: empty for a signal without one, `None` if no signal has one."""
    found = tuple(tuple(map(_EXACT.__getitem__, vector or ())) for vector in vectors)
    return found if any(found) else None


def says_something(signal: Signal) -> bool:
    """Whether no text of a signal is empty, and its replies differ."""
    if isinstance(signal, Comparison) and signal.chosen == signal.rejected:
        return False
    return all(text.strip() for text in msgspec.structs.astuple(signal))


def _telling(history: Iterable[Told], counts: Counter[str]) -> Iterator[Told]:
    seen: set[Signal] = set()
    for signal, vector in history:
        if signal in seen:
            counts["signals_dropped/repeated"] += 1
        elif says_something(signal):
            seen.add(signal)
            yield signal, vector
        else:
            counts["signals_dropped/no_text_or_equal_replies"] += 1


def _sample(candidates: Iterable[_Candidate], most: int, seed: int) -> list[_Candidate]:
    """So many of them at most, of more by chance, so that they fit into memory (a reservoir)."""
    draw, kept = random.Random(seed), list[_Candidate]()
    for seen, candidate in enumerate(candidates, 1):
        place = len(kept) if seen <= most else draw.randrange(seen)
        if place < most:
            kept[place : place + 1] = [candidate]
    return kept


def _users(candidates: Sequence[_Candidate], counts: Counter[str]) -> list[str]:
    """The user of each row: rows without a name that share a signal, also through others, are one.

    Attributes alone make no user, since strangers have the same.
    """
    parts = connected(each.keys for each in candidates)
    first: dict[int, _Candidate] = {}
    users = [
        first.setdefault(part, each).user or f"{first[part].name}-user"
        for part, each in zip(parts, candidates, strict=True)
    ]
    counts["users"] = len(first)
    nameless = sum(not each.user for each in candidates)
    if nameless and len(first) < len(users):
        say(
            f"{nameless:,} rows without a user are joined where they share a signal: "
            f"{len(users):,} rows are of {len(first):,} users, the largest has "
            f"{max(Counter(users).values()):,}"
        )
    return users

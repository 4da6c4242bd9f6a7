"""What a visitor has done, and what comes of the next choice: values and rules, without a page."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignxplore_trl.demo.differences import Piece, differences
from alignxplore_trl.demo.pairs import Pair, Side
from alignxplore_trl.inference.descriptions import WrittenDescription
from alignxplore_trl.signals import Comparison


@dataclass(frozen=True)
class Version:
    """A description, and how many choices it has read."""

    content: WrittenDescription
    choices: int


@dataclass(frozen=True)
class Visit:
    """All that is known of one visitor.

    Attributes:
        place: of the pair that is shown, among all.
        chosen: choices that no description has read yet.
        skipped: pairs of which the visitor preferred neither reply.
        versions: the descriptions, oldest first.
        failures: times that choices could not be read.
        problem: why, the last time; `None` once they were.
    """

    place: int = 0
    chosen: tuple[Comparison, ...] = ()
    skipped: int = 0
    versions: tuple[Version, ...] = ()
    failures: int = 0
    problem: str | None = None

    @property
    def description(self) -> str | None:
        """The description that holds now; `None` if there is none."""
        return self.versions[-1].content.description if self.versions else None

    @property
    def changes(self) -> list[Piece]:
        """The description that holds now, held against the one before it."""
        texts = [version.content.description for version in self.versions[-2:]]
        return differences(*texts) if len(texts) == 2 else [Piece(text, "kept") for text in texts]

    def described(self, written: WrittenDescription) -> Visit:
        """The choices have been read."""
        version = Version(written, len(self.chosen))
        return replace(self, chosen=(), versions=(*self.versions, version), problem=None)

    def failed(self, why: str) -> Visit:
        """The choices could not be read, and wait for another try."""
        return replace(self, failures=self.failures + 1, problem=why)


@dataclass(frozen=True)
class Rounds:
    """The rules that all visits follow.

    Attributes:
        pairs: what is chosen from, in order.
        per_round: choices that are read at once.
    """

    pairs: tuple[Pair, ...]
    per_round: int

    def is_due(self, visit: Visit) -> bool:
        """Whether choices are to be read: a whole round, or what is left where the pairs end."""
        at_the_end = visit.place >= len(self.pairs)
        return len(visit.chosen) >= self.per_round or (at_the_end and bool(visit.chosen))

    def pair(self, visit: Visit) -> Pair | None:
        """What to choose from now; `None` if choices are due, or all pairs have been shown."""
        if self.is_due(visit) or visit.place >= len(self.pairs):
            return None
        return self.pairs[visit.place]

    def choose(self, visit: Visit, side: Side) -> Visit:
        """The visitor prefers one of the two; without a pair nothing changes."""
        pair = self.pair(visit)
        if pair is None:
            return visit
        return replace(visit, place=visit.place + 1, chosen=(*visit.chosen, pair.chosen(side)))

    def skip(self, visit: Visit) -> Visit:
        """The visitor prefers neither, which is no signal; without a pair nothing changes."""
        if self.pair(visit) is None:
            return visit
        return replace(visit, place=visit.place + 1, skipped=visit.skipped + 1)

    def suggested_post(self, number: int) -> str:
        """A post to reply to, each number another one, from the end of the pairs."""
        return self.pairs[-1 - number % len(self.pairs)].post

"""What a user did, and the case that tests whether a description of that user is any good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from alignxplore_trl.run.errors import UserError


class Comparison(msgspec.Struct, frozen=True, tag="comparison", tag_field="kind"):
    """The user saw two replies to a post, chose one and rejected the other."""

    post: str
    chosen: str
    rejected: str
    kind = "comparison"

    def reversed(self) -> Comparison:
        """The same two replies, with the other one chosen."""
        return Comparison(self.post, self.rejected, self.chosen)

    def shows_pair_of(self, other: Comparison) -> bool:
        """Whether both show the same two replies to the same post, whichever was chosen."""
        pair = {other.chosen, other.rejected}
        return self.post == other.post and {self.chosen, self.rejected} == pair


class Post(msgspec.Struct, frozen=True, tag="post", tag_field="kind"):
    """A comment that the user wrote under a post (user-generated content)."""

    post: str
    comment: str
    kind = "post"


class Attributes(msgspec.Struct, frozen=True, tag="attributes", tag_field="kind"):
    """What the user said about themself."""

    text: str
    kind = "attributes"


Signal = Comparison | Post | Attributes


class Case(msgspec.Struct, frozen=True):
    """Signals of a user in their order, and a pair of replies that the user also judged.

    Attributes:
        case_id: names the case within its data set.
        user_id: names the user; cases of one user stay in one split.
        signals: in the order in which they happened; the target pair is never among them.
        target: the pair that a description is tested on.
        directions: name of a dimension -> the pole the user prefers, where the source knows.
        description: the true preference in words, where the source knows it.
        cluster: what makes cases depend on each other, for intervals; by default the user.
        vectors: each signal's numbers by dimension (1, 0 or 0.5), where rows have them.
    """

    case_id: str
    user_id: str
    signals: tuple[Signal, ...]
    target: Comparison
    directions: dict[str, str] | None = None
    description: str | None = None
    cluster: str = ""
    vectors: tuple[tuple[float, ...], ...] | None = None

    @property
    def unit(self) -> str:
        """The name of the cluster."""
        return self.cluster or self.user_id

    def rounds(self, size: int, count: int) -> list[tuple[Signal, ...]]:
        """As many whole rounds of `size` signals as there are signals for, `count` at most."""
        available = min(count, len(self.signals) // size)
        return [self.signals[i * size : (i + 1) * size] for i in range(available)]


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write cases, or other rows, as JSON lines; half a file is never left behind."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
    part.replace(path)


def read_cases(path: Path) -> list[Case]:
    """Read cases from JSON lines.

    Raises:
        UserError: a line is not a case; the message names file and line.
    """
    decoder, cases = msgspec.json.Decoder(Case), []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                cases.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{path}, line {number}: not a case: {error}") from error
    return cases


def encode_signals(signals: Sequence[Signal]) -> str:
    """Signals as a JSON list, for a column of a dataset; the inverse of `decode_signals`."""
    return msgspec.json.encode(list(signals)).decode()


def decode_signals(text: str) -> tuple[Signal, ...]:
    """Read what `encode_signals` wrote."""
    return tuple(msgspec.json.decode(text, type=list[Signal]))

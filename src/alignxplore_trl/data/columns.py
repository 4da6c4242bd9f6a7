"""What a mapping says: which columns of a file of people's choices hold what.

Three shapes of files are told apart by the mapping's `name`. `pairs`: a row is a comparison and
names both replies. `contest`: a row has two replies and says which of them won. `options`: a row is
one reply or item that was shown, rows with the same group were shown together, and a column says
which of them were chosen. The last is also the shape of logs of recommendations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Columns:
    """What every mapping says. A column is a key of a row, or a path such as `messages.-1.content`.

    Attributes:
        user: who chose.
        post: what the replies answer; `None` where `post_text` says it for all rows.
        post_text: the words that stand for the post, such as what kind of list items stood in.
        form: whether the two are replies to a post or items of a list.
        order: the column that rows of a user are sorted by; `None` keeps the order of the file.
        keep: column -> values; rows with another value are left out.
        at_least: column -> number; rows with a smaller one, or none, are left out.
    """

    user: str
    post: str | None
    post_text: str | None
    form: Literal["replies", "items"]
    order: str | None
    keep: dict[str, list[Any]]
    at_least: dict[str, float]

    def __post_init__(self) -> None:
        if (self.post is None) == (self.post_text is None):
            raise ValueError("post: expected a column here, or words in post_text, and not both")
        if self.form == "items" and self.post_text is None:
            raise ValueError("post_text: nothing found, expected words that introduce two items")


@dataclass(frozen=True)
class PairColumns(Columns):
    """A row is a comparison: columns with the chosen and the rejected reply."""

    name: Literal["pairs"]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ContestColumns(Columns):
    """A row has two replies, and a column whose values say which won; other values are ties."""

    name: Literal["contest"]
    first: str
    second: str
    winner: str
    first_wins: list[Any]
    second_wins: list[Any]


@dataclass(frozen=True)
class OptionColumns(Columns):
    """A row is one of several replies or items that were shown together.

    Attributes:
        group: what was shown together has the same value here.
        text: the reply, or the item's title.
        chosen: true where it was chosen.
        pairs_per_group: how many pairs of a chosen and another one are drawn from a group.
    """

    name: Literal["options"]
    group: str
    text: str
    chosen: str
    pairs_per_group: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs_per_group < 1:
            raise ValueError(f"pairs_per_group: {self.pairs_per_group} found, expected 1 or more")


# The keys above whose values name columns.
COLUMN_KEYS = (
    "user", "post", "order", "chosen", "rejected", "first", "second", "winner", "group", "text",
)  # fmt: skip
AnyColumns = PairColumns | ContestColumns | OptionColumns

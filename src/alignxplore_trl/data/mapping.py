"""Any file of people's choices that says who chose -> cases, by what its columns hold.

The comparisons of a user are laid in order. Each of the latest ones is a target, and those before
it are its history, so that no case looks into the user's future.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import says_something
from alignxplore_trl.data.rows import Name, Problems, convert, read_rows
from alignxplore_trl.data.splits import post_key, split_cases
from alignxplore_trl.run.errors import UserError


class _Shown(msgspec.Struct):
    """What a row says was shown to a user; rows of one group were shown together."""

    user: Name
    group: Name
    post: str
    replies: list[str]
    winner: bool | int | float | str = 0
    order: Any = 0

    def __post_init__(self) -> None:
        """Make a number or a moment of `order`; a `ValueError` is reported with the row."""
        found, self.order = self.order, meaning(self.order)
        if isinstance(self.order, str) or math.isnan(self.order):
            try:
                moment = datetime.fromisoformat(str(self.order))
            except ValueError as error:
                raise ValueError(f"order: {found!r} found, expected a number or date") from error
            self.order = moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Mapping:
    """A data source, and what the columns of its file hold: the keys of conf/data/mapping.yaml.

    A column is a key of a row, or a path into lists and objects such as `messages.-1.content`.
    Values are compared by what they mean: `true`, `1`, `1.0` and the texts of a CSV file are one.
    """

    path: str
    sizes: dict[str, int]
    rounds: PositiveInt
    signals: PositiveInt
    user: str
    replies: list[str]
    post: str | None = None
    post_text: str = ""
    winner: str | None = None
    wins: list[list[Any]] = Field(default_factory=list)
    group: str | None = None
    pairs_per_group: PositiveInt = 1
    order: str | None = None
    keep: dict[str, list[Any]] = Field(default_factory=dict)
    cases_per_user: PositiveInt = 4

    def __post_init__(self) -> None:
        if (self.post is None) == (not self.post_text):
            raise ValueError("expected post (a column) or post_text (words for all rows)")
        if self.winner is not None and len(self.wins) != len(self.replies):
            raise ValueError("wins: expected one list of values of winner for each of the replies")

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read, order and split; see `data.prepare.Source`."""
        by_user = defaultdict[str, list[tuple[str, list[Comparison]]]](list)
        groups = self._groups(counts)
        for group, rows in sorted(groups.items(), key=lambda each: each[1][0].order):
            texts: dict[bool, list[str]] = {True: [], False: []}
            for row in rows:
                for place, text in enumerate(row.replies):
                    won = not place  # Without a column for it, the first reply is the chosen one.
                    if self.winner is not None:
                        won = meaning(row.winner) in map(meaning, self.wins[place])
                    texts[won].append(text)
            pairs = [*itertools.product(texts[True], texts[False])]
            counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] += not pairs
            most = min(len(pairs), self.pairs_per_group)
            drawn = random.Random(f"{seed}/{group}").sample(pairs, most)
            choices = [*filter(says_something, (Comparison(rows[0].post, *pair) for pair in drawn))]
            counts["choices_dropped/no_text_or_equal_replies"] += len(drawn) - len(choices)
            counts["choices"] += len(choices)
            if choices:
                by_user[str(rows[0].user)].append((group, choices))
        counts["users"] = len(by_user)
        cases = list[Case]()
        for user, groups_of_user in by_user.items():
            own = [*itertools.islice(self._of_user(user, groups_of_user), self.cases_per_user)]
            counts["users_with_too_few_choices"] += not own
            cases += own[::-1]
        needed, ignored = self.rounds * self.signals, [self.post_text]
        return split_cases(cases, self.sizes, needed, seed, counts, not_posts=ignored)

    def _groups(self, counts: Counter[str]) -> dict[str, list[_Shown]]:
        """The rows that pass the filter, by group."""
        problems, groups = Problems(), defaultdict[str, list[_Shown]](list)
        keys = ("user", "post", "winner", "group", "order")
        named = {key: column for key in keys if (column := getattr(self, key)) is not None}
        columns = {*named.values(), *self.replies, *self.keep}
        wanted = columns | {column.split(".")[0] for column in columns}
        for row in read_rows(self.path, wanted, problems):
            counts["rows"] += 1
            values = {column: value_at(row.value, column) for column in columns}
            for column, kept in self.keep.items():
                if meaning(values[column]) not in map(meaning, kept):
                    counts[f"rows_dropped/{column}"] += 1
                    break
            else:
                found = {"group": row.name, "post": self.post_text}
                found |= {key: values[column] for key, column in named.items()}
                replies = [values[column] for column in self.replies]
                shown = convert(row._replace(value=found | {"replies": replies}), _Shown, problems)
                if shown is None:
                    continue
                group = groups[str(shown.group)]
                group.append(shown)
                if (shown.user, shown.post) != (group[0].user, group[0].post):
                    problems.append(
                        f"{row.place}, {self.group}: a row before has the group {shown.group}, but "
                        "another user or post; expected one choice of one user"
                    )
        problems.raise_if_any()
        if len({type(rows[0].order) for rows in groups.values()}) > 1:
            raise UserError(f"{self.path}, {self.order}: expected numbers or dates, found both")
        return groups

    def _of_user(self, user: str, groups: Sequence[tuple[str, list[Comparison]]]) -> Iterator[Case]:
        """The choices of a user as targets, the latest first, each with those before it.

        Of several pairs from one group, the first is a target, so that none of its group is in its
        history. No choice about its post is there either.
        """
        needed = self.rounds * self.signals
        for number in reversed(range(len(groups))):
            group, (target, *_) = groups[number]
            others = [
                choice
                for _, choices in groups[:number]
                for choice in choices
                if self.post_text or post_key(choice.post) != post_key(target.post)
            ]
            if len(others) >= needed:
                yield Case(group, user, tuple(others[-needed:]), target)


def value_at(row: Any, column: str) -> Any:
    """What stands at a column: a key, or a path of keys and places in lists; `None` for nothing."""
    value = row
    is_key = isinstance(row, dict) and column in row
    for part in [column] if is_key else column.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and re.fullmatch(r"-?\d+", part):
            value = value[int(part)] if -len(value) <= int(part) < len(value) else None
        else:
            return None
    return value


def meaning(value: Any) -> float | str:
    """A value as it is compared: a truth value or a number, also if it is a text, as a number."""
    text = str(value).strip()
    try:
        return float({"true": 1, "false": 0}.get(text.lower(), text))
    except ValueError:
        return text

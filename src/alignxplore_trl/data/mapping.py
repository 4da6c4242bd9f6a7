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
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import says_something
from alignxplore_trl.data.rows import Name, Problems, Row, convert, read_rows
from alignxplore_trl.data.splits import post_key, split_cases
from alignxplore_trl.run.errors import UserError


class _Shown(NamedTuple):
    """What was shown together: what the user chose of it, and what not."""

    user: str
    post: str
    rank: Any
    place: str
    chosen: list[str]
    others: list[str]


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
    at_least: dict[str, float] = Field(default_factory=dict)
    cases_per_user: PositiveInt = 4

    def __post_init__(self) -> None:
        if (self.post is None) == (not self.post_text):
            raise ValueError("expected post (a column) or post_text (words for all rows)")
        if self.winner is not None and len(self.wins) != len(self.replies):
            raise ValueError("wins: expected one list of values of winner for each of the replies")

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read, order and split; see `data.prepare.Source`."""
        by_user = defaultdict[str, list[tuple[str, Comparison]]](list)
        for group, shown in sorted(self._groups(counts).items(), key=lambda each: each[1].rank):
            pairs = [*itertools.product(shown.chosen, shown.others)]
            counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] += not pairs
            most = min(len(pairs), self.pairs_per_group)
            for pair in random.Random(f"{seed}/{group}").sample(pairs, most):
                if says_something(comparison := Comparison(shown.post, *pair)):
                    by_user[shown.user].append((group, comparison))
                else:
                    counts["choices_dropped/no_text_or_equal_replies"] += 1
        counts["users"] = len(by_user)
        cases = [case for user, own in by_user.items() for case in self._of_user(user, own, counts)]
        needed, ignored = self.rounds * self.signals, [self.post_text]
        return split_cases(cases, self.sizes, needed, seed, counts, not_posts=ignored)

    def _groups(self, counts: Counter[str]) -> dict[str, _Shown]:
        """What was shown, of the rows that pass the filters."""
        problems, groups, failed = Problems(), dict[str, _Shown](), ""
        named = (self.user, self.post, self.winner, self.group, self.order)
        columns = {*filter(None, named), *self.replies, *self.keep, *self.at_least}
        wanted, absent = columns | {column.split(".")[0] for column in columns}, set(columns)
        for row in read_rows(self.path, wanted, problems):
            counts["rows"] += 1
            absent -= {column for column in absent if value_at(row.value, column) is not None}
            if column := self._failed_filter(row.value):
                counts[f"rows_dropped/{column}"] += 1
                failed = f"{row.place} has {value_at(row.value, column)!r} in {column}"
            else:
                self._note(row, groups, problems)
        if absent and counts["rows"]:
            raise UserError(f"{self.path}: no row has the columns {sorted(absent)} that data names")
        problems.raise_if_any()
        if failed and not groups:
            raise UserError(f"data.keep, data.at_least: no row passes; {failed}")
        return groups

    def _failed_filter(self, row: Any) -> str | None:
        for column, values in self.keep.items():
            if meaning(value_at(row, column)) not in map(meaning, values):
                return column
        for column, least in self.at_least.items():
            # Not `<`: NaN is neither smaller nor larger.
            if isinstance(found := meaning(value_at(row, column)), str) or not found >= least:
                return column
        return None

    def _note(self, row: Row, groups: dict[str, _Shown], problems: Problems) -> None:
        """Add what a row says was shown, or problems."""
        before = problems.count

        def take(column: str, kind: Any = str) -> Any:
            at, value = f"{row.place}, {column}", value_at(row.value, column)
            return convert(row._replace(place=at, value=value), kind, problems)

        user = str(take(self.user, Name))
        post = take(self.post) if self.post else self.post_text
        group = str(take(self.group, Name)) if self.group else row.name
        texts = [take(column) for column in self.replies]
        flags = [place == 0 for place in range(len(texts))]
        if self.winner:
            winner = meaning(take(self.winner, bool | int | float | str))
            flags = [winner in map(meaning, values) for values in self.wins]
        rank: Any = 0.0
        if self.order:
            rank = _rank(found := value_at(row.value, self.order))
            first = next(iter(groups.values()), None)
            if rank is None or (first and type(rank) is not type(first.rank)):
                problems.add(
                    f"{row.place}, {self.order}: {found!r} found, expected a number or date, the "
                    "same of both in all rows"
                )
        if problems.count > before:
            return
        shown = groups.setdefault(group, _Shown(user, post, rank, row.place, [], []))
        if (shown.user, shown.post) != (user, post):
            problems.add(
                f"{row.place}, {self.group}: the group {group} is that of {shown.place}, but user "
                "or post differ; expected one choice of one user"
            )
        for text, is_chosen in zip(texts, flags, strict=True):
            (shown.chosen if is_chosen else shown.others).append(text)

    def _of_user(
        self, user: str, choices: Sequence[tuple[str, Comparison]], counts: Counter[str]
    ) -> list[Case]:
        """The latest choices of a user as targets, each with the latest ones before it.

        Of several pairs from one group, the first is a target, so that none of its group is in its
        history. No choice about its post is there either.
        """
        cases, needed = list[Case](), self.rounds * self.signals
        for number in range(len(choices) - 1, -1, -1):
            group, target = choices[number]
            if len(cases) == self.cases_per_user:
                break
            if number and choices[number - 1][0] == group:
                continue
            others = [
                choice
                for _, choice in choices[:number]
                if self.post_text or post_key(choice.post) != post_key(target.post)
            ]
            if len(others) >= needed:
                cases.append(Case(group, user, tuple(others[-needed:]), target))
        counts["choices"] += len(choices)
        counts["users_with_too_few_choices"] += not cases
        return cases[::-1]


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


def _rank(value: Any) -> float | datetime | None:
    """A value as it is sorted by; `None` if it can't be."""
    number = meaning(value)
    if isinstance(number, float):
        return None if math.isnan(number) else number
    try:
        moment = datetime.fromisoformat(number)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

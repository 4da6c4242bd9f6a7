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
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import says_something
from alignxplore_trl.data.rows import Name, Problems, Row, read_rows
from alignxplore_trl.data.splits import post_key, split_cases
from alignxplore_trl.run.errors import UserError

_Rank = tuple[str, float]


class _Shown(NamedTuple):
    """What was shown together: what the user chose of it, and what not."""

    user: str
    post: str
    rank: _Rank
    place: str
    chosen: list[str]
    others: list[str]


class _Choice(NamedTuple):
    comparison: Comparison
    group: str
    rank: _Rank


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
        problems, groups = Problems(), dict[str, _Shown]()
        for row in self._rows(counts, problems):
            self._note(row, groups, problems)
        kinds = {shown.rank[0]: shown.place for shown in groups.values()}
        if len(kinds) > 1:
            found = " and ".join(f"a {kind} ({place})" for kind, place in kinds.items())
            problems.add(f"data.order: {found} in {self.order}; expected one kind to sort by")
        problems.raise_if_any()
        by_user = defaultdict[str, list[_Choice]](list)
        for group, shown in groups.items():
            pairs = [*itertools.product(shown.chosen, shown.others)]
            counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] += not pairs
            most = min(len(pairs), self.pairs_per_group)
            for pair in random.Random(f"{seed}/{group}").sample(pairs, most):
                if says_something(comparison := Comparison(shown.post, *pair)):
                    by_user[shown.user].append(_Choice(comparison, group, shown.rank))
                else:
                    counts["choices_dropped/no_text_or_equal_replies"] += 1
        counts["users"] = len(by_user)
        cases = [case for user, own in by_user.items() for case in self._of_user(user, own, counts)]
        needed, ignored = self.rounds * self.signals, [self.post_text]
        return split_cases(cases, self.sizes, needed, seed, counts, not_posts=ignored)

    def _rows(self, counts: Counter[str], problems: Problems) -> Iterator[Row]:
        """The rows that pass the filters."""
        named = (self.user, self.post, self.winner, self.group, self.order)
        columns = {*filter(None, named), *self.replies, *self.keep, *self.at_least}
        wanted = columns | {column.split(".")[0] for column in columns}
        present, passed, example = set[str](), 0, ""
        for row in read_rows(self.path, wanted, problems):
            counts["rows"] += 1
            if not isinstance(row.value, dict):
                problems.add(f"{row.place}: expected an object with columns")
                continue
            present |= row.value.keys()
            if column := self._failed_filter(row.value):
                counts[f"rows_dropped/{column}"] += 1
                example = f"{row.place} has {value_at(row.value, column)!r} in {column}"
            else:
                passed += 1
                yield row
        absent = [c for c in sorted(columns) if not {c, c.split(".")[0]} & present]
        if absent and present:
            raise UserError(
                f"{self.path}: no row has the columns {absent} that the keys of data name"
            )
        if example and not passed:
            raise UserError(f"data.keep, data.at_least: no row passes; {example}")

    def _failed_filter(self, row: dict[str, Any]) -> str | None:
        for column, values in self.keep.items():
            if meaning(value_at(row, column)) not in map(meaning, values):
                return column
        for column, least in self.at_least.items():
            number = meaning(value_at(row, column))
            # Not `<`: NaN is neither smaller nor larger.
            if isinstance(number, str) or not number >= least:
                return column
        return None

    def _note(self, row: Row, groups: dict[str, _Shown], problems: Problems) -> None:
        """Add what a row says was shown, or problems."""
        before = problems.count

        def take(column: str, kind: Any = str) -> Any:
            try:
                return msgspec.convert(value_at(row.value, column), kind)
            except msgspec.ValidationError as error:
                problems.add(f"{row.place}, {column}: {error}")

        user = str(take(self.user, Name))
        post = take(self.post) if self.post else self.post_text
        group = str(take(self.group, Name)) if self.group else row.name
        rank = _rank(value_at(row.value, self.order)) if self.order else ("", 0.0)
        if rank is None:
            found = value_at(row.value, self.order or "")
            problems.add(f"{row.place}, {self.order}: {found!r} found, expected a number or date")
        flags = [True, *[False] * len(self.replies)]
        if self.winner:
            winner = meaning(take(self.winner, bool | int | float | str))
            flags = [winner in map(meaning, values) for values in self.wins]
        texts = [take(column) for column in self.replies]
        if problems.count > before or rank is None:
            return
        shown = groups.setdefault(group, _Shown(user, post, rank, row.place, [], []))
        if (shown.user, shown.post) != (user, post):
            problems.add(
                f"{row.place}, {self.group}: the group {group} is that of {shown.place}, but user "
                "or post differ; expected one choice of one user"
            )
        for text, is_chosen in zip(texts, flags, strict=False):
            (shown.chosen if is_chosen else shown.others).append(text)

    def _of_user(self, user: str, choices: list[_Choice], counts: Counter[str]) -> list[Case]:
        """The latest choices of a user as targets, each with the latest ones before it.

        No choice from the target's group or about the target's post is in its history. Of several
        pairs from one group, the first is the target.
        """
        choices = sorted(choices, key=lambda choice: choice.rank)
        needed, cases = self.rounds * self.signals, list[Case]()
        for number in range(len(choices) - 1, -1, -1):
            target = choices[number]
            if len(cases) == self.cases_per_user:
                break
            if number and choices[number - 1].group == target.group:
                continue
            others = [c.comparison for c in choices[:number] if not self._tells(c, target)]
            if len(others) >= needed:
                history = tuple(others[-needed:])
                cases.append(Case(target.group, user, history, target.comparison))
        counts["choices"] += len(choices)
        counts["users_with_too_few_choices"] += not cases
        return cases[::-1]

    def _tells(self, choice: _Choice, target: _Choice) -> bool:
        """Whether a choice would give the target away: the same group, or the same post."""
        one, other = post_key(choice.comparison.post), post_key(target.comparison.post)
        return choice.group == target.group or (not self.post_text and one == other)


def value_at(row: Any, column: str) -> Any:
    """What stands at a column: a key, or a path of keys and places in lists; `None` for nothing."""
    if column in row:
        return row[column]
    value = row
    for part in column.split("."):
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


def _rank(value: Any) -> tuple[str, float] | None:
    """The kind of a value and its place in an order; `None` if it can't be sorted by."""
    try:
        number = float(value)
        return None if math.isnan(number) else ("number", number)
    except (TypeError, ValueError):
        pass
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return "date", (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

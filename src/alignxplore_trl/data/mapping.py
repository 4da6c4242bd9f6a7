"""Any file of people's choices -> cases: a mapping says which columns hold what.

The comparisons of a user are laid in order. Each of the latest ones is a target, and those before
it are its history, so that no case looks into the user's future.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignxplore_trl.data.columns import (
    COLUMN_KEYS,
    AnyColumns,
    Columns,
    ContestColumns,
    OptionColumns,
    PairColumns,
)
from alignxplore_trl.data.rows import (
    Row,
    is_text,
    post_key,
    raise_the_first,
    read_rows,
    shown,
)
from alignxplore_trl.data.sources import split_and_count
from alignxplore_trl.data.splits import CaseSplits
from alignxplore_trl.data.world import Split
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Comparison, PreferenceCase

_YES = (True, 1, "1", "true", "True", "yes")
_NO = (False, 0, "0", "false", "False", "no")


@dataclass(frozen=True)
class Choice:
    """One comparison, and what it must not share with a case's target: its group and its post."""

    comparison: Comparison
    group: str
    rank: Any
    place: str


def load_mapping(
    path: Path,
    columns: AnyColumns,
    signals: int,
    cases_per_user: int,
    sizes: Mapping[Split, int],
    seed: int,
    *,
    anonymise: bool = False,
) -> CaseSplits:
    """Read a file by a mapping and split its users.

    Args:
        path: JSON array, JSON lines, Parquet, CSV or TSV.
        columns: the mapping.
        signals: how many of the choices before the target are its history, the latest ones.
        cases_per_user: how many of a user's choices are targets at most, the latest ones.
        sizes: how many cases each split is to have; a split that is not named has none.
        seed: of the splits and of the pairs drawn from groups.
        anonymise: whether links, addresses, numbers and user names are replaced.

    Raises:
        UserError: the file doesn't have these columns, or a split gets no case.
    """
    counts: Counter[str] = Counter()
    choices = read_choices(path, columns, seed, counts)
    cases = [
        case
        for user, own in choices.items()
        for case in cases_of_user(path.stem, user, own, signals, cases_per_user, counts)
    ]
    if not cases:
        raise UserError(
            f"data.signals_per_user: {signals} found, but none of the {len(choices)} users of "
            f"{path} has made as many choices before another one; ask for fewer. Counted: "
            + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        )
    return split_and_count(cases, counts, sizes, signals, seed, anonymise=anonymise)


def read_choices(
    path: Path, columns: AnyColumns, seed: int, counts: Counter[str]
) -> dict[str, list[Choice]]:
    """The choices of each user in their order; what is of no use is left out and counted.

    Raises:
        UserError: rows lack the columns or hold something else there; each problem names file, row
            and column.
    """
    problems = Problems()
    by_user: dict[str, list[Choice]] = defaultdict(list)
    seen: set[str] = set()
    rows = _noting_columns(read_rows(path, problems), seen)
    kept = _kept_rows(rows, columns, counts, problems)
    if isinstance(columns, OptionColumns):
        found = _choices_of_groups(kept, columns, seed, counts, problems)
    else:
        found = _choices_of_rows(kept, columns, counts, problems)
    for user, choice in found:
        if choice.comparison.chosen == choice.comparison.rejected:
            counts["choices_dropped/identical_replies"] += 1
        else:
            by_user[user].append(choice)
    _check_columns(path, columns, seen)
    raise_the_first(problems, path)
    if columns.order is not None:
        for user, own in by_user.items():
            by_user[user] = _in_order(own, columns.order)
    counts["users"] = len(by_user)
    counts["choices"] = sum(map(len, by_user.values()))
    return dict(by_user)


def cases_of_user(
    source: str,
    user: str,
    choices: Sequence[Choice],
    signals: int,
    most: int,
    counts: Counter[str],
) -> list[PreferenceCase]:
    """The latest choices of a user as targets, each with the latest `signals` before it.

    No choice from the target's group or about the target's post is in its history. Of several pairs
    from one group, the first is the target.
    """
    cases: list[PreferenceCase] = []
    for number in range(len(choices) - 1, -1, -1):
        target = choices[number]
        if len(cases) == most:
            break
        if number and choices[number - 1].group == target.group:
            continue
        others = (choice for choice in reversed(choices[:number]) if not _is_about(choice, target))
        history = list(itertools.islice(others, signals))[::-1]
        if len(history) == signals:
            cases.append(
                PreferenceCase(
                    case_id=f"{source}-{target.group}",
                    user_id=user,
                    signals=tuple(choice.comparison for choice in history),
                    target=target.comparison,
                )
            )
    counts["users_with_too_few_choices"] += not cases
    return cases[::-1]


def _is_about(choice: Choice, target: Choice) -> bool:
    """Whether a choice would give the target away: the same group, or a reply to the same post."""
    if choice.group == target.group:
        return True
    mine, others = choice.comparison, target.comparison
    return mine.form == "replies" and post_key(mine.post) == post_key(others.post)


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """What stands at a column: a key, or a path of keys and places in lists; `None` for nothing."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.lstrip("-").isdigit():
            value = value[int(part)] if -len(value) <= int(part) < len(value) else None
        else:
            return None
    return value


def _noting_columns(rows: Iterable[Row], seen: set[str]) -> Iterator[Row]:
    for row in rows:
        if isinstance(row.value, dict):
            seen.update(row.value)
        yield row


def _check_columns(path: Path, columns: Columns, seen: set[str]) -> None:
    """Columns that no row has are wrong in the mapping, not in the rows."""
    named = {
        key: value
        for key, value in vars(columns).items()
        if key in COLUMN_KEYS and isinstance(value, str)
    }
    named |= {f"keep.{column}": column for column in columns.keep}
    named |= {f"at_least.{column}": column for column in columns.at_least}
    missing = {
        key: column
        for key, column in named.items()
        if column not in seen and column.split(".")[0] not in seen
    }
    if missing and seen:
        raise UserError(
            [
                f"data.mapping.{key}: the column {column!r} found, but no row of {path} has it; "
                f"expected one of {', '.join(sorted(seen))}"
                for key, column in missing.items()
            ]
        )


def _kept_rows(
    rows: Iterable[Row], columns: Columns, counts: Counter[str], problems: Problems
) -> Iterator[Row]:
    for row in rows:
        counts["rows"] += 1
        if not isinstance(row.value, dict):
            problems.add(f"{row.place}: {shown(row.value)} found, expected columns and values")
        elif reason := _left_out(row.value, columns):
            counts[f"rows_dropped/{reason}"] += 1
        else:
            yield row


def _left_out(value: Mapping[str, Any], columns: Columns) -> str | None:
    for column, values in columns.keep.items():
        # As texts: all values of a CSV file are.
        if str(value_at(value, column)) not in map(str, values):
            return column
    for column, least in columns.at_least.items():
        number = _number(value_at(value, column))
        if number is None or number < least:
            return column
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _choices_of_rows(
    rows: Iterable[Row],
    columns: PairColumns | ContestColumns,
    counts: Counter[str],
    problems: Problems,
) -> Iterator[tuple[str, Choice]]:
    for row in rows:
        if isinstance(columns, PairColumns):
            sides = columns.chosen, columns.rejected
        else:
            winner = value_at(row.value, columns.winner)
            if winner is None:
                problems.add(f"{row.place}, {columns.winner}: nothing found, expected who won")
                continue
            if winner not in (*columns.first_wins, *columns.second_wins):
                counts["choices_dropped/no_winner"] += 1
                continue
            sides = columns.first, columns.second
            if winner in columns.second_wins:
                sides = columns.second, columns.first
        user, post = _user_and_post(row, columns, problems)
        chosen, rejected = (_text(row, side, problems) for side in sides)
        if user is None or post is None or chosen is None or rejected is None:
            continue
        if not (post.strip() and chosen.strip() and rejected.strip()):
            counts["rows_dropped/empty_text"] += 1
        else:
            comparison = Comparison(post, chosen, rejected, columns.form)
            rank = value_at(row.value, columns.order) if columns.order else None
            yield user, Choice(comparison, str(row.number), rank, row.place)


@dataclass(frozen=True)
class _Option:
    user: str
    post: str
    text: str
    chosen: bool
    rank: Any
    place: str


def _choices_of_groups(
    rows: Iterable[Row],
    columns: OptionColumns,
    seed: int,
    counts: Counter[str],
    problems: Problems,
) -> Iterator[tuple[str, Choice]]:
    groups: dict[str, list[_Option]] = defaultdict(list)
    for row in rows:
        option = _option(row, columns, problems)
        if option is not None and not (option.text.strip() and option.post.strip()):
            counts["rows_dropped/empty_text"] += 1
        elif option is not None:
            groups[str(value_at(row.value, columns.group))].append(option)
    for name, options in groups.items():
        first = options[0]
        strange = next((o for o in options if (o.user, o.post) != (first.user, first.post)), None)
        if strange is not None:
            problems.add(
                f"{strange.place}, {columns.group}: the group {name} is that of {first.place}, but "
                "user or post differ; expected one choice of one user"
            )
            continue
        pairs = [
            (one.text, other.text)
            for one, other in itertools.product(options, options)
            if one.chosen and not other.chosen
        ]
        if not pairs:
            counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] += 1
            continue
        draw = random.Random(f"{seed}/{name}")
        for chosen, rejected in draw.sample(pairs, min(len(pairs), columns.pairs_per_group)):
            comparison = Comparison(first.post, chosen, rejected, columns.form)
            yield first.user, Choice(comparison, name, first.rank, first.place)
    counts["groups"] = len(groups)


def _option(row: Row, columns: OptionColumns, problems: Problems) -> _Option | None:
    user, post = _user_and_post(row, columns, problems)
    text = _text(row, columns.text, problems)
    group = value_at(row.value, columns.group)
    flag = value_at(row.value, columns.chosen)
    if group is None:
        problems.add(f"{row.place}, {columns.group}: nothing found, expected what was shown beside")
    if flag not in (*_YES, *_NO):
        problems.add(f"{row.place}, {columns.chosen}: {shown(flag)} found, expected true or false")
    if user is None or post is None or text is None or group is None:
        return None
    if flag not in (*_YES, *_NO):
        return None
    rank = value_at(row.value, columns.order) if columns.order else None
    return _Option(user, post, text, flag in _YES, rank, row.place)


def _user_and_post(row: Row, columns: Columns, problems: Problems) -> tuple[str | None, str | None]:
    user = value_at(row.value, columns.user)
    if not isinstance(user, str | int) or isinstance(user, bool) or not str(user).strip():
        problems.add(f"{row.place}, {columns.user}: {shown(user)} found, expected the user's name")
        user = None
    post = _text(row, columns.post, problems) if columns.post else columns.post_text
    return (None if user is None else str(user)), post


def _text(row: Row, column: str, problems: Problems) -> str | None:
    value = value_at(row.value, column)
    if isinstance(value, str) and (is_text(value) or not value.strip()):
        return value
    problems.add(f"{row.place}, {column}: {shown(value)} found, expected a text")
    return None


def _in_order(choices: list[Choice], column: str) -> list[Choice]:
    """Sorted by what stands in the column: by number if all are numbers, else as texts."""
    ranks = [choice.rank for choice in choices]
    missing = [choice for choice in choices if choice.rank is None]
    if missing:
        raise UserError(f"{missing[0].place}, {column}: nothing found, expected what to sort by")
    numbers = [_number(rank) for rank in ranks]
    keys = numbers if None not in numbers else list(map(str, ranks))
    order = sorted(range(len(choices)), key=lambda index: keys[index])  # type: ignore[arg-type,return-value]
    return [choices[index] for index in order]

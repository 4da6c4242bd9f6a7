"""ALIGNX-shaped files -> cases: the reader, and what it refuses or leaves out.

A file is a JSON array, JSON lines or Parquet, and is read into memory; what is larger goes through
`data.refined_sets`. A row holds the target pair (`prompt`, `chosen`, `rejected`), the history
(`Pair-wise Comparative Feedback`, `User-Generated Content`, `Demographic Information`), and may
hold `Preference Direction` and `user`.

Two kinds of trouble are told apart. A row that isn't what the format says (a missing field, the
target pair inside the history, a direction vector of the wrong length, …) is a mistake in the file:
all such mistakes are reported together, and nothing is read, or all but these rows. A row that is
well-formed but of no use (identical replies in its history, too few signals) is left out and
counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignxplore_trl.data.row_files import find_files
from alignxplore_trl.data.rows import Row, is_text, keep_the_first, rows_of_file, shown, texts_of
from alignxplore_trl.data.world import SignalKind
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.signals import Attributes, Comparison, Post, PreferenceCase, Signal

_SIGNAL_TYPES: Mapping[SignalKind, tuple[type[Signal], ...]] = {
    "comparisons": (Comparison,),
    "posts": (Post,),
    "mixed": (Attributes, Post, Comparison),
}
PAIRS_FIELD = "Pair-wise Comparative Feedback"
POSTS_FIELD = "User-Generated Content"
ATTRIBUTES_FIELD = "Demographic Information"
DIRECTIONS_FIELD = "Preference Direction"
PAIR_FIELDS = ("prompt", "chosen", "rejected")
POST_FIELDS = ("prompt", "comment")


@dataclass(frozen=True)
class Dimension:
    """One entry of a direction vector: its name, and what 1 and 0 mean for the user.

    `positive` and `negative` are ends of a sentence that starts with "This user".
    """

    name: str
    positive: str
    negative: str


@dataclass(frozen=True)
class AlignxCases:
    """The usable cases of a file, in its order, and how much was left out, by reason."""

    cases: list[PreferenceCase]
    counts: dict[str, int]


def read_alignx(
    source: str,
    signals_needed: int,
    dimensions: Sequence[Dimension],
    signal_kind: SignalKind,
    *,
    strict: bool = True,
) -> AlignxCases:
    """Read the cases of ALIGNX-shaped files.

    A user is what the `user` key says. Rows without it that share a signal, be it one's target and
    the other's history, are one user; attributes don't count, since strangers have the same.

    Args:
        source: a file, a folder of files or a name on the Hub, see `find_files`.
        signals_needed: cases with fewer signals are left out and counted.
        dimensions: the entries of a direction vector, in order; only used where rows have one.
        signal_kind: what becomes a case's history: only comparisons, only posts, or, mixed, the
            attributes, then the posts, then the comparisons, each in the order of the file.
        strict: whether a row that isn't in the format is an error; if not, it is told, left out
            and counted.

    Raises:
        UserError: the file or some of its rows are not in the format (each problem names the
            file, the row and the field), or there is no such kind of signals.
    """
    if signal_kind not in _SIGNAL_TYPES:
        raise UserError(
            f"data.signal_kind: {signal_kind!r} found, expected one of {', '.join(_SIGNAL_TYPES)}"
        )
    problems, unreadable = Problems(), Problems()
    counts: Counter[str] = Counter()
    rows: list[AlignxRow] = []
    names: list[tuple[str, int]] = []
    for file in find_files(source):
        for found in rows_of_file(file, unreadable):
            row = read_row(found, dimensions, problems, counts)
            if row is None:
                counts["rows_broken"] += 1
            else:
                rows.append(row)
                names.append((file.name, found.number))
    counts["rows_broken"] += len(unreadable.found)
    problems.found += unreadable.found
    if not (rows or problems.found):
        problems.add(f"{source}: no rows found, expected at least one")
    keep_the_first(problems, source)
    if strict or not rows:
        problems.raise_if_any()
    for problem in problems.found:
        say(f"left out: {problem}")

    users = connected_groups([row.user_keys() for row in rows])
    cases = []
    for row, (name, number), first_row in zip(rows, names, users, strict=True):
        signals = tuple(s for s in row.signals if isinstance(s, _SIGNAL_TYPES[signal_kind]))
        if len(signals) < signals_needed:
            counts["cases_dropped/too_few_signals"] += 1
            continue
        directions = preferred_poles(row.directions, dimensions) if row.directions else None
        cases.append(
            PreferenceCase(
                case_id=f"{name}-{number}",
                user_id=row.user or "{}-user-of-{}".format(*names[first_row]),
                signals=signals,
                target=row.target,
                directions=directions or None,
                description=compose_description(directions.values()) if directions else None,
            )
        )
    total = len(rows) + counts["rows_broken"]
    return AlignxCases(cases, {"rows": total, **dict(sorted(counts.items()))})


def preferred_poles(directions: Sequence[float], dimensions: Sequence[Dimension]) -> dict[str, str]:
    """Name the non-neutral entries of a direction vector: dimension -> the preferred pole."""
    return {
        dimension.name: dimension.positive if value == 1 else dimension.negative
        for value, dimension in zip(directions, dimensions, strict=True)
        if value != 0.5
    }


def compose_description(poles: Iterable[str]) -> str:
    """The description that states these poles; those of a direction vector give the true one."""
    return f"This user {'; '.join(poles)}."


def dimensions_from_config(entries: object) -> list[Dimension]:
    """Read `data.dimensions`: a list of entries with name, positive and negative.

    Raises:
        UserError: an entry lacks one of the three or has something else, or a name occurs twice.
    """
    problems = Problems()
    dimensions: list[Dimension] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        wanted = {"name", "positive", "negative"}
        if (
            not isinstance(entry, dict)
            or set(entry) != wanted
            or not all(isinstance(value, str) and value.strip() for value in entry.values())
        ):
            problems.add(
                f"data.dimensions[{number}]: {shown(entry)} found, expected texts for the keys "
                "name, positive and negative, and no others"
            )
        elif entry["name"] in [dimension.name for dimension in dimensions]:
            problems.add(
                f"data.dimensions[{number}]: the name {entry['name']!r} stands there twice"
            )
        else:
            dimensions.append(Dimension(**entry))
    problems.raise_if_any()
    return dimensions


def connected_groups(keys_of_items: Sequence[Iterable[Hashable]]) -> list[int]:
    """Group items that share a key, directly or through others.

    Returns:
        For each item the index of the first item of its group.
    """
    parents = list(range(len(keys_of_items)))

    def first_of_group(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    first_with_key: dict[Hashable, int] = {}
    for item, keys in enumerate(keys_of_items):
        for key in keys:
            one = first_of_group(item)
            other = first_of_group(first_with_key.setdefault(key, item))
            parents[max(one, other)] = min(one, other)
    return [first_of_group(item) for item in range(len(keys_of_items))]


@dataclass(frozen=True)
class AlignxRow:
    """A row that is in the format, with those of its signals that say something."""

    user: str | None
    target: Comparison
    signals: tuple[Signal, ...]
    directions: tuple[float, ...] | None

    def user_keys(self) -> list[Hashable]:
        if self.user is not None:
            return [self.user]
        return [self.target, *(s for s in self.signals if not isinstance(s, Attributes))]


def read_row(
    source: Row,
    dimensions: Sequence[Dimension],
    problems: Problems,
    counts: Counter[str],
) -> AlignxRow | None:
    """Read one row, or add its problems and return `None`."""
    row, place = source.value, source.place
    before = len(problems.found)
    if not isinstance(row, dict) or not any(field in row for field in PAIR_FIELDS):
        found = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else shown(row)
        problems.add(f"{place}: {found} found, expected a row with {', '.join(PAIR_FIELDS)}")
        return None
    target = _target(row, place, problems)
    pairs = _history(row, PAIRS_FIELD, PAIR_FIELDS, place, dimensions, problems)
    posts = _history(row, POSTS_FIELD, POST_FIELDS, place, dimensions, problems)
    attributes = _attributes(row, place, problems)
    directions = read_directions(row, place, dimensions, problems)
    user = _user(row, place, problems)
    if target is None or len(problems.found) > before:
        return None

    comparisons = [Comparison(post, chosen, rejected) for post, chosen, rejected in pairs]
    comments = [Post(post, comment) for post, comment in posts]
    signals: list[Signal] = [*attributes, *comments, *comparisons]
    if not signals:
        problems.add(
            f"{place}: the history is empty, expected {PAIRS_FIELD!r}, {POSTS_FIELD!r} or "
            f"{ATTRIBUTES_FIELD!r} to hold something"
        )
    problems.found.extend(
        f"{place}, {PAIRS_FIELD} item {number}: this is the target pair itself, expected other "
        "choices of the user; remove it from the history"
        for number, comparison in enumerate(comparisons, 1)
        if comparison.shows_pair_of(target)
    )
    if len(problems.found) > before:
        return None
    usable = tuple(_usable_signals(signals, counts))
    return AlignxRow(user, target, usable, directions)


def _target(row: Mapping[str, Any], place: str, problems: Problems) -> Comparison | None:
    texts = texts_of(row, PAIR_FIELDS, place, problems, may_be_empty=True)
    if not texts:
        return None
    problems.found.extend(
        f"{place}, {field}: the text is empty, expected a target pair: a post and two replies"
        for field, text in zip(PAIR_FIELDS, texts, strict=True)
        if not text.strip()
    )
    post, chosen, rejected = texts
    if chosen == rejected and chosen.strip():
        problems.add(
            f"{place}, chosen and rejected: the replies of the target pair are equal, expected two "
            "different ones; remove the row"
        )
    return Comparison(post, chosen, rejected)


def _usable_signals(signals: Sequence[Signal], counts: Counter[str]) -> Iterator[Signal]:
    seen: set[Signal] = set()
    for signal in signals:
        if isinstance(signal, Comparison) and signal.chosen == signal.rejected:
            counts["signals_dropped/identical_replies"] += 1
        elif any(not text.strip() for text in vars(signal).values()):
            counts["signals_dropped/empty_text"] += 1
        elif signal in seen:
            counts["signals_dropped/repeated"] += 1
        else:
            seen.add(signal)
            yield signal


def _history(
    row: Mapping[str, Any],
    field: str,
    text_fields: Sequence[str],
    place: str,
    dimensions: Sequence[Dimension],
    problems: Problems,
) -> list[tuple[str, ...]]:
    """The texts of each item of a history; the items with problems are missing."""
    items = row.get(field)
    if items is None:
        return []
    if not isinstance(items, list):
        problems.add(f"{place}, {field}: {shown(items)} found, expected a list")
        return []
    history = []
    for number, item in enumerate(items, 1):
        item_place = f"{place}, {field} item {number}"
        if not isinstance(item, dict):
            problems.add(
                f"{item_place}: {shown(item)} found, expected an object with "
                f"{', '.join(text_fields)}"
            )
            continue
        if texts := texts_of(item, text_fields, item_place, problems, may_be_empty=True):
            history.append(texts)
        read_directions(item, item_place, dimensions, problems)
    return history


def _attributes(row: Mapping[str, Any], place: str, problems: Problems) -> list[Attributes]:
    text = row.get(ATTRIBUTES_FIELD)
    if text is None or text == "":
        return []
    if not is_text(text, may_be_empty=True):
        problems.add(f"{place}, {ATTRIBUTES_FIELD}: {shown(text)} found, expected a text")
        return []
    return [Attributes(text)]


def read_directions(
    item: Mapping[str, Any], place: str, dimensions: Sequence[Dimension], problems: Problems
) -> tuple[float, ...] | None:
    """The direction vector of a row or an item; `None` without one, or if it is a problem."""
    values = item.get(DIRECTIONS_FIELD)
    if values is None:
        return None
    place = f"{place}, {DIRECTIONS_FIELD}"
    if not isinstance(values, list):
        problems.add(f"{place}: {shown(values)} found, expected a list of numbers")
    elif len(values) != len(dimensions):
        problems.add(
            f"{place}: {len(values)} numbers found, expected {len(dimensions)}: one for each entry "
            "of data.dimensions"
        )
    elif wrong := [each for each in values if isinstance(each, bool) or each not in (0, 0.5, 1)]:
        problems.add(f"{place}: {shown(wrong[0])} found, expected 0, 0.5 or 1")
    else:
        return tuple(map(float, values))
    return None


def _user(row: Mapping[str, Any], place: str, problems: Problems) -> str | None:
    user = row.get("user")
    if user is None:
        return None
    if not isinstance(user, str | int) or not is_text(str(user)):
        problems.add(f"{place}, user: {shown(user)} found, expected a text that names the user")
    return str(user)

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

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignxplore_trl.data.row_files import RowFile, chunks_of, rows_of
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
MOST_PROBLEMS_SHOWN = 20


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
    path: Path,
    signals_needed: int,
    dimensions: Sequence[Dimension],
    signal_kind: SignalKind,
    *,
    strict: bool = True,
) -> AlignxCases:
    """Read the cases of an ALIGNX-shaped file.

    A user is what the `user` key says. Rows without it that share a signal, be it one's target and
    the other's history, are one user; attributes don't count, since strangers have the same.

    Args:
        path: a JSON array or JSON lines, UTF-8, or Parquet.
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
    problems = Problems()
    counts: Counter[str] = Counter()
    rows: list[_Row] = []
    for place, value in _rows_in(path, problems, counts):
        row = read_row(value, place, dimensions, problems, counts)
        if row is None:
            counts["rows_broken"] += 1
        else:
            rows.append(row)
    _shorten(problems, path)
    if strict or not rows:
        problems.raise_if_any()
    for problem in problems.found:
        say(f"left out: {problem}")

    users = connected_groups([row.user_keys() for row in rows])
    cases = []
    for row, first_row in zip(rows, users, strict=True):
        signals = tuple(s for s in row.signals if isinstance(s, _SIGNAL_TYPES[signal_kind]))
        if len(signals) < signals_needed:
            counts["cases_dropped/too_few_signals"] += 1
            continue
        directions = preferred_poles(row.directions, dimensions) if row.directions else None
        cases.append(
            PreferenceCase(
                case_id=f"{path.stem}-{row.number}",
                user_id=row.user or f"{path.stem}-user-of-{rows[first_row].number}",
                signals=signals,
                target=row.target,
                directions=directions or None,
                description=compose_description(directions) if directions else None,
            )
        )
    return AlignxCases(cases, {"rows": len(rows), **dict(sorted(counts.items()))})


def preferred_poles(directions: Sequence[float], dimensions: Sequence[Dimension]) -> dict[str, str]:
    """Name the non-neutral entries of a direction vector: dimension -> the preferred pole."""
    return {
        dimension.name: dimension.positive if value == 1 else dimension.negative
        for value, dimension in zip(directions, dimensions, strict=True)
        if value != 0.5
    }


def compose_description(poles: Mapping[str, str]) -> str:
    """The true description that a direction vector stands for, in words."""
    return f"This user {'; '.join(poles.values())}."


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
                f"data.dimensions[{number}]: {_shown(entry)} found, expected texts for the keys "
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
class RowPlace:
    """Where a row stands, as a person finds it: the line of a file, or the row of an array."""

    path: Path
    unit: Literal["line", "row"]
    number: int

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.number}"


@dataclass(frozen=True)
class _Row:
    number: int
    user: str | None
    target: Comparison
    signals: tuple[Signal, ...]
    directions: tuple[float, ...] | None

    def user_keys(self) -> list[Hashable]:
        if self.user is not None:
            return [self.user]
        return [self.target, *(s for s in self.signals if not isinstance(s, Attributes))]


def _rows_in(
    path: Path, problems: Problems, counts: Counter[str]
) -> Iterator[tuple[RowPlace, object]]:
    """The rows of a file and where they stand; rows that are not JSON become problems."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; set data.path to an ALIGNX-shaped file")
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    if is_parquet:
        file = RowFile(path, "parquet", path.stem)
        lines = (line for chunk in chunks_of(file) for _, line in rows_of(chunk))
        for number, line in enumerate(lines, 1):
            yield RowPlace(path, "row", number), json.loads(line)
    else:
        yield from _json_rows(path, problems, counts)


def _json_rows(
    path: Path, problems: Problems, counts: Counter[str]
) -> Iterator[tuple[RowPlace, object]]:
    text = _read_text(path)
    start = text.lstrip()[:1]
    if not start:
        raise UserError(f"{path}: the file is empty, expected a JSON array or JSON lines")
    if start == "[":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
            ) from None
        if not rows:
            raise UserError(f"{path}: the JSON array is empty, expected at least one row")
        yield from ((RowPlace(path, "row", number), row) for number, row in enumerate(rows, 1))
    elif start == "{":
        yield from _json_lines(path, text, problems, counts)
    else:
        raise UserError(
            f"{path}: starts with {_shown(text.lstrip())}, expected JSON lines (each line one "
            "{…}) or a JSON array ([…]); convert other formats, CSV for example, first"
        )


def _json_lines(
    path: Path, text: str, problems: Problems, counts: Counter[str]
) -> Iterator[tuple[RowPlace, object]]:
    unreadable = Problems()
    # Not splitlines: strings in JSON may contain the other line ends of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = RowPlace(path, "line", number)
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            unreadable.add(f"{place}, column {error.colno}: not JSON: {error.msg}")
            continue
        yield place, row
    if unreadable.found and _is_json(text):
        raise UserError(
            f"{path}: one JSON object over several lines, expected a JSON array of rows, or JSON "
            "lines (each row on one line)"
        )
    problems.found.extend(unreadable.found)
    if unreadable.found:
        counts["rows_broken"] += len(unreadable.found)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not valid UTF-8; save the "
            "file as UTF-8"
        ) from None


def read_row(
    row: object,
    place: RowPlace,
    dimensions: Sequence[Dimension],
    problems: Problems,
    counts: Counter[str],
) -> _Row | None:
    """Read one row, or add its problems and return `None`."""
    before = len(problems.found)
    if not isinstance(row, dict) or not any(field in row for field in PAIR_FIELDS):
        found = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else _shown(row)
        problems.add(f"{place}: {found} found, expected a row with {', '.join(PAIR_FIELDS)}")
        return None
    target = _target(row, place, problems)
    pairs = _history(row, PAIRS_FIELD, PAIR_FIELDS, place, dimensions, problems)
    posts = _history(row, POSTS_FIELD, POST_FIELDS, place, dimensions, problems)
    attributes = _attributes(row, place, problems)
    directions = _directions(row, str(place), dimensions, problems)
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
        if _same_pair(comparison, target)
    )
    if len(problems.found) > before:
        return None
    usable = tuple(_usable_signals(signals, counts))
    return _Row(place.number, user, target, usable, directions)


def _target(row: Mapping[str, Any], place: RowPlace, problems: Problems) -> Comparison | None:
    texts = _texts(row, PAIR_FIELDS, str(place), problems)
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


def _same_pair(one: Comparison, other: Comparison) -> bool:
    """Whether two comparisons show the same replies to the same post, whichever was chosen."""
    return one.post == other.post and {one.chosen, one.rejected} == {other.chosen, other.rejected}


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
    place: RowPlace,
    dimensions: Sequence[Dimension],
    problems: Problems,
) -> list[tuple[str, ...]]:
    """The texts of each item of a history; the items with problems are missing."""
    items = row.get(field)
    if items is None:
        return []
    if not isinstance(items, list):
        problems.add(f"{place}, {field}: {_shown(items)} found, expected a list")
        return []
    history = []
    for number, item in enumerate(items, 1):
        item_place = f"{place}, {field} item {number}"
        if not isinstance(item, dict):
            problems.add(
                f"{item_place}: {_shown(item)} found, expected an object with "
                f"{', '.join(text_fields)}"
            )
            continue
        if texts := _texts(item, text_fields, item_place, problems):
            history.append(texts)
        _directions(item, item_place, dimensions, problems)
    return history


def _texts(
    item: Mapping[str, Any], fields: Sequence[str], place: str, problems: Problems
) -> tuple[str, ...]:
    """The texts of the fields, or problems and an empty tuple."""
    wrong = [
        f"{place}, {field}: {_shown(item[field]) if field in item else 'nothing'} found, "
        "expected a text"
        for field in fields
        if not _is_text(item.get(field))
    ]
    problems.found.extend(wrong)
    return () if wrong else tuple(item[field] for field in fields)


def _attributes(row: Mapping[str, Any], place: RowPlace, problems: Problems) -> list[Attributes]:
    text = row.get(ATTRIBUTES_FIELD)
    if text is None or text == "":
        return []
    if not _is_text(text):
        problems.add(f"{place}, {ATTRIBUTES_FIELD}: {_shown(text)} found, expected a text")
        return []
    return [Attributes(text)]


def _directions(
    item: Mapping[str, Any], place: str, dimensions: Sequence[Dimension], problems: Problems
) -> tuple[float, ...] | None:
    values = item.get(DIRECTIONS_FIELD)
    if values is None:
        return None
    place = f"{place}, {DIRECTIONS_FIELD}"
    if not isinstance(values, list):
        problems.add(f"{place}: {_shown(values)} found, expected a list of numbers")
    elif len(values) != len(dimensions):
        problems.add(
            f"{place}: {len(values)} numbers found, expected {len(dimensions)}: one for each entry "
            "of data.dimensions"
        )
    elif wrong := [value for value in values if value not in (0, 0.5, 1)]:
        problems.add(f"{place}: {_shown(wrong[0])} found, expected 0, 0.5 or 1")
    else:
        return tuple(map(float, values))
    return None


def _user(row: Mapping[str, Any], place: RowPlace, problems: Problems) -> str | None:
    user = row.get("user")
    if user is None:
        return None
    if not isinstance(user, str | int) or not _is_text(str(user)) or not str(user).strip():
        problems.add(f"{place}, user: {_shown(user)} found, expected a text that names the user")
    return str(user)


def _is_text(value: object) -> bool:
    """Whether this is a text that can be written to a file: half a surrogate pair can't."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """A value in a message: as JSON, cut where it gets long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _shorten(problems: Problems, path: Path) -> None:
    """Keep the first problems: nobody reads thousands of them."""
    hidden = len(problems.found) - MOST_PROBLEMS_SHOWN
    if hidden > 0:
        problems.found[MOST_PROBLEMS_SHOWN:] = [f"{path}: {hidden} more problems like these"]

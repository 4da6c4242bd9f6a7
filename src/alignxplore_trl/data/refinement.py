"""Which rows make the refined sets: the rules of a row, applied to a chunk of a file at once.

The rules (arXiv:2505.18071, data construction): a target pair has at least five non-neutral
dimensions; every history item that is kept has the target's direction on all of them; no two kept
items have opposite directions on any other dimension; enough items are left. An item that breaks a
rule is left out, of two in conflict the later one; a row with too few items left is dropped.

A chunk's `Verdicts` hold numbers and hashes alone, so that a million rows fit into memory; texts
are read again for the rows that are chosen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from alignxplore_trl.data.alignx import (
    ATTRIBUTES_FIELD,
    DIRECTIONS_FIELD,
    PAIR_FIELDS,
    PAIRS_FIELD,
    POST_FIELDS,
    POSTS_FIELD,
    Dimension,
    read_row,
)
from alignxplore_trl.data.near_duplicates import Signatures, signatures_of
from alignxplore_trl.data.privacy import anonymise_text
from alignxplore_trl.data.row_files import Chunk, RowSpan, rows_of
from alignxplore_trl.data.rows import Row, post_key, unreadable_row, value_of
from alignxplore_trl.data.world import SignalKind
from alignxplore_trl.run.errors import Problems
from alignxplore_trl.signals import Attributes, Comparison, Post, Signal

T = TypeVar("T")
ItemOrRow = TypeVar("ItemOrRow", bound=msgspec.Struct)
Codes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

# Entries of a direction vector as they are held here: 0 and 1 as in the file.
NEUTRAL, UNREADABLE = 2, 255
_BATCH_ROWS = 64
_NO_DIRECTIONS = msgspec.Raw(b"null")
# The signs of direction vectors as small numbers: those that end a number are the largest.
_ZERO, _ONE, _FIVE, _POINT, _OTHER, _COMMA, _BRACKET = 1, 2, 3, 4, 5, 6, 7
_KNOWN_SIGNS = dict(zip(b"015.,]", (_ZERO, _ONE, _FIVE, _POINT, _COMMA, _BRACKET), strict=True))
_SIGNS = bytes(_KNOWN_SIGNS.get(sign, _OTHER) for sign in range(256))


@dataclass(frozen=True)
class Rules:
    """What decides whether a row is kept, and with which history.

    Attributes:
        dimensions: the entries of a direction vector.
        minimum_dimensions: non-neutral entries that a target pair must have.
        signal_kind: what the history of the sets is made of.
        signals_needed: signals that a history must have.
        signals_of_base: what the base setting reads: a row with at least so many, but fewer than
            needed, is counted by itself.
        posts_needed: posts that a row of the test with posts must have.
        anonymise: whether rows that pass are anonymised before their posts are compared.
    """

    dimensions: tuple[Dimension, ...]
    minimum_dimensions: int
    signal_kind: SignalKind
    signals_needed: int
    signals_of_base: int
    posts_needed: int
    anonymise: bool = False


@dataclass(frozen=True)
class Verdicts:
    """What is known of the rows of a chunk after the first pass; arrays of equal length by prefix.

    Attributes:
        units: lines of the chunk, those without text included (rows, where it isn't lines).
        row_numbers: which of these each readable row is, from 0.
        row_starts: with `row_lengths` the span of each readable row.
        key_hashes: what connects rows to users: a hash per signal, or one of the user's name.
        key_rows: the readable row that has the key.
        candidate_rows: the readable row of each candidate, that is, a history that passes.
        candidate_posts: whether that history is of posts, for the test with posts.
        candidate_attributes: whether the attributes are part of it.
        candidate_targets: hash of the target's post.
        item_candidates: the candidate of each kept history item.
        item_indices: which of the row's posts and comparisons, in this order, it is.
        item_posts: hash of its post.
        post_hashes: the different posts of all candidates, and
        post_signatures: their MinHash signatures.
        broken_numbers: lines that aren't in the format, with their spans in
        broken_starts: and
        broken_lengths.
        counts: rows and signals left out, by reason.
    """

    units: int
    row_numbers: Numbers
    row_starts: Places
    row_lengths: Numbers
    key_hashes: Hashes
    key_rows: Numbers
    candidate_rows: Numbers
    candidate_posts: npt.NDArray[np.bool_]
    candidate_attributes: npt.NDArray[np.bool_]
    candidate_targets: Hashes
    item_candidates: Numbers
    item_indices: Numbers
    item_posts: Hashes
    post_hashes: Hashes
    post_signatures: Signatures
    broken_numbers: Numbers
    broken_starts: Places
    broken_lengths: Numbers
    counts: dict[str, int]

    def save(self, path: Path) -> None:
        """Write them to a file that is either whole or not there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        unfinished = path.with_name(f".{path.name}")
        with unfinished.open("wb") as stream:
            np.savez(stream, **values | {"counts": np.array(json.dumps(self.counts))})
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Verdicts:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        counts = json.loads(str(values.pop("counts")))
        return cls(**values | {"counts": counts, "units": int(values["units"])})


class _PairItem(msgspec.Struct, gc=False):
    prompt: str
    chosen: str
    rejected: str
    directions: msgspec.Raw = msgspec.field(default=_NO_DIRECTIONS, name=DIRECTIONS_FIELD)

    def signal(self) -> Comparison:
        return Comparison(self.prompt, self.chosen, self.rejected)

    def texts(self) -> tuple[str, ...]:
        return self.prompt, self.chosen, self.rejected

    def key(self) -> bytes:
        """A hash that equal items have in common; empty where the item says nothing."""
        post, chosen, rejected = self.prompt, self.chosen, self.rejected
        if chosen == rejected or not (post.strip() and chosen.strip() and rejected.strip()):
            return b""
        return xxhash.xxh3_64_digest(f"{post}\0{chosen}\0{rejected}".encode())


class _PostItem(msgspec.Struct, gc=False):
    prompt: str
    comment: str
    directions: msgspec.Raw = msgspec.field(default=_NO_DIRECTIONS, name=DIRECTIONS_FIELD)

    def signal(self) -> Post:
        return Post(self.prompt, self.comment)

    def texts(self) -> tuple[str, ...]:
        return self.prompt, self.comment

    def key(self) -> bytes:
        """A hash that equal items have in common; empty where the item says nothing."""
        post, comment = self.prompt, self.comment
        return (
            xxhash.xxh3_64_digest(f"{post}\0{comment}".encode())
            if post.strip() and comment.strip()
            else b""
        )


class SourceRow(msgspec.Struct, gc=False):
    """A row as it stands in a file."""

    prompt: str
    chosen: str
    rejected: str
    directions: msgspec.Raw = msgspec.field(default=_NO_DIRECTIONS, name=DIRECTIONS_FIELD)
    user: str | int | None = None
    attributes: str | None = msgspec.field(default=None, name=ATTRIBUTES_FIELD)
    posts: list[_PostItem] | None = msgspec.field(default=None, name=POSTS_FIELD)
    pairs: list[_PairItem] | None = msgspec.field(default=None, name=PAIRS_FIELD)

    def items(self) -> list[_PostItem | _PairItem]:
        """The history items: posts, then comparisons."""
        return [*(self.posts or ()), *(self.pairs or ())]

    def target(self) -> Comparison:
        return Comparison(self.prompt, self.chosen, self.rejected)

    def signals(self, attributes: bool, indices: Iterable[int]) -> tuple[Signal, ...]:
        """The signals at these places of `items`, behind the attributes if they are wanted."""
        items = self.items()
        first = [Attributes(self.attributes)] if attributes and self.attributes else []
        return (*first, *(items[index].signal() for index in indices))


_decoder = msgspec.json.Decoder(SourceRow)


def judge_and_save(chunk: Chunk, rules: Rules, path: Path) -> None:
    """Judge a chunk, and keep the verdicts in a file."""
    judge_chunk(chunk, rules).save(path)


def judge_chunk(chunk: Chunk, rules: Rules) -> Verdicts:
    """Read a chunk and apply the rules of a row to all of its rows."""
    found = _Findings(rules)
    for batch in _batches(rows_of(chunk), _BATCH_ROWS):
        found.add(batch)
    return found.verdicts()


def row_from_json(line: bytes, dimensions: Sequence[Dimension]) -> SourceRow | None:
    """One row, or `None` where it isn't in the format (its vectors are not looked at)."""
    try:
        row = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # What a stricter reader refuses may still be a row, such as one with NaN in another key.
        return _row_from_unusual_json(line, dimensions)
    return row if _is_well_formed(row) else None


def anonymise_row(row: SourceRow) -> SourceRow:
    """A row with `anonymise_text` of all its texts."""

    def cleaned(item: ItemOrRow, names: Sequence[str]) -> ItemOrRow:
        texts = {name: getattr(item, name) for name in names}
        return msgspec.structs.replace(
            item, **{name: text and anonymise_text(text) for name, text in texts.items()}
        )

    pairs = [cleaned(pair, PAIR_FIELDS) for pair in row.pairs or ()]
    posts = [cleaned(post, POST_FIELDS) for post in row.posts or ()]
    changed = cleaned(row, (*PAIR_FIELDS, "attributes"))
    return msgspec.structs.replace(changed, pairs=pairs, posts=posts)


def problems_of_row(line: bytes, place: str, dimensions: Sequence[Dimension]) -> list[str]:
    """What is wrong with a row that isn't in the format, in words."""
    try:
        value = value_of(line)
    except ValueError as error:
        return [unreadable_row(place, error)]
    problems = Problems()
    read_row(Row(value, 0, place), dimensions, problems, Counter())
    return problems.found or [f"{place}: can't be read as a row"]


def direction_codes(vectors: Sequence[bytes | msgspec.Raw], length: int) -> Codes:
    """Direction vectors, as they are written in JSON, all at once: [vectors, length].

    Entries are 0, 1 and `NEUTRAL`; a vector that isn't a list of `length` such numbers is
    `UNREADABLE` in some entry.
    """
    if not vectors:
        return np.empty((0, length), np.uint8)
    text = b"\0\0\0\0" + b"".join(vectors).translate(_SIGNS, b" \t\r\n[")
    signs = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(signs[4:] >= _COMMA)
    if (
        len(ends) != len(vectors) * length
        or text.count(_BRACKET) != len(vectors)
        or (signs[4:][ends[length - 1 :: length]] != _BRACKET).any()
    ):
        return np.concatenate([_codes_of_one(bytes(vector), length) for vector in vectors])
    # The four signs before each end, three bits for each, say what the number is.
    wide = signs.astype(np.uint16)
    pairs = (wide[:-1] << 3) | wide[1:]
    endings = ((pairs[:-2] << 6) | pairs[2:]).take(ends)
    codes = _CODE_OF_ENDING.take(endings).reshape(len(vectors), length)
    if codes.max() == UNREADABLE:  # 0.50 or 5e-1, perhaps.
        for unusual in np.flatnonzero((codes == UNREADABLE).any(axis=1)).tolist():
            codes[unusual] = _codes_of_one(bytes(vectors[unusual]), length)
    return codes


def directions_of(row: SourceRow, dimensions: Sequence[Dimension]) -> list[float]:
    """The target's direction vector as numbers: 0, 0.5 and 1."""
    codes = direction_codes([row.directions], len(dimensions))[0]
    return [0.5 if code == NEUTRAL else float(code) for code in codes]


def text_hash(*texts: str) -> int:
    """A hash that is the same in every process: 64 bits of XXH3."""
    return xxhash.xxh3_64_intdigest("\0".join(texts).encode())


def _codes_of_endings() -> Codes:
    """The entry of a vector by the last four signs before its comma or bracket: [8 ** 4]."""
    codes = np.full((8, 8, 8, 8), UNREADABLE, np.uint8)
    first_or_behind_end = [0, _COMMA, _BRACKET]
    for entry, digit in enumerate((_ZERO, _ONE)):
        codes[:, :, first_or_behind_end, digit] = entry
        codes[first_or_behind_end, digit, _POINT, _ZERO] = entry
    codes[first_or_behind_end, _ZERO, _POINT, _FIVE] = NEUTRAL
    return codes.reshape(-1)


_CODE_OF_ENDING = _codes_of_endings()


class _Findings:
    """Collects the verdicts of a chunk, batch by batch."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.units = 0
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[int, int, int]] = []
        self.broken: list[tuple[int, int, int]] = []
        self.keys: list[bytes] = []
        self.keys_of_rows: list[int] = []
        self.candidates: list[tuple[int, bool, bool, int]] = []
        self.items: list[tuple[int, int, int]] = []
        self.posts: dict[int, str] = {}
        self.neutral = msgspec.Raw(b"[" + b",".join([b"0.5"] * len(rules.dimensions)) + b"]")

    def add(self, batch: Sequence[tuple[RowSpan, bytes]]) -> None:
        """Judge some rows."""
        read: list[SourceRow] = []
        places: list[tuple[int, int, int]] = []
        for number, (span, line) in enumerate(batch, self.units):
            if line.isspace():
                continue
            row = row_from_json(line, self.rules.dimensions)
            if row is None:
                self.broken.append((number, span.start, span.length))
            else:
                read.append(row)
                places.append((number, span.start, span.length))
        self.units += len(batch)
        if read:
            self._judge(read, places)

    def _judge(self, read: Sequence[SourceRow], places: Sequence[tuple[int, int, int]]) -> None:
        """The rules of vectors for all rows at once, the others for rows that may still pass."""
        histories = [row.items() for row in read]
        items = [item for history in histories for item in history]
        target_codes, codes = self._codes(read), self._codes(items)
        sizes = np.array([len(history) for history in histories])
        row_of_item = np.repeat(np.arange(len(read)), sizes)
        unreadable = (target_codes == UNREADABLE).any(axis=1)
        unreadable[row_of_item[(codes == UNREADABLE).any(axis=1)]] = True
        active = target_codes != NEUTRAL
        enough = active.sum(axis=1) >= self.rules.minimum_dimensions
        agrees = ~((codes != target_codes[row_of_item]) & active[row_of_item]).any(axis=1)
        agreeing = np.bincount(row_of_item[agrees], minlength=len(read))
        least = min(self.rules.signals_of_base - 1, self.rules.posts_needed)
        first_items = np.cumsum(sizes) - sizes
        for place, row in enumerate(read):
            if unreadable[place]:
                self.broken.append(places[place])
                continue
            index, history = len(self.rows), histories[place]
            keys = [item.key() for item in history]
            self.rows.append(places[place])
            self._add_keys(row, keys)
            if not enough[place]:
                no_vector = bytes(row.directions) == b"null"
                self._drop("no_directions" if no_vector else "few_dimensions")
            elif agreeing[place] < least:
                self._drop("too_few_signals")
            else:
                if self.rules.anonymise:
                    row = anonymise_row(row)
                    if not _is_well_formed(row):
                        self._drop("same_when_anonymised")
                        continue
                    history = row.items()
                    keys = [item.key() for item in history]
                one = slice(first_items[place], first_items[place] + sizes[place])
                candidate = _History(row, history, keys, agrees[one], codes[one])
                self._add_candidates(index, candidate, target_codes[place])

    def _codes(self, items: Sequence[SourceRow | _PostItem | _PairItem]) -> Codes:
        """The vectors of items; without one, an item has no direction."""
        vectors = [item.directions for item in items]
        if len(_NO_DIRECTIONS) in map(len, vectors):
            vectors = [self.neutral if bytes(vector) == b"null" else vector for vector in vectors]
        return direction_codes(vectors, len(self.rules.dimensions))

    def _add_keys(self, row: SourceRow, keys: Sequence[bytes]) -> None:
        """What makes two rows one user: the user's name, else the target and the signals."""
        if row.user is not None:
            found = [xxhash.xxh3_64_digest(f"user\0\0{row.user}".encode())]
        else:
            target = xxhash.xxh3_64_digest(f"{row.prompt}\0{row.chosen}\0{row.rejected}".encode())
            found = [target, *filter(None, keys)]
        self.keys += found
        self.keys_of_rows.append(len(found))

    def _drop(self, reason: str, of: str = "rows_dropped") -> None:
        self.counts[f"{of}/{reason}"] += 1

    def _add_candidates(self, index: int, history: _History, target: Codes) -> None:
        rules = self.rules
        dropped: Counter[str] = Counter()
        attributes = rules.signal_kind == "mixed" and history.has_attributes()
        kept = history.kept(rules.signal_kind, target, rules.signals_of_base, dropped)
        signals = len(kept) + attributes
        if signals >= rules.signals_needed:
            self.counts["rows_passed"] += 1
            self.counts.update(dropped)
            self._add_candidate(index, history, kept, attributes, for_posts=False)
        elif signals >= rules.signals_of_base:
            self._drop("base_setting_only")
        else:
            self._drop("too_few_signals")
        posts = history.kept("posts", target, rules.posts_needed, Counter())
        if len(posts) >= rules.posts_needed:
            self.counts["rows_passed_with_posts"] += 1
            self._add_candidate(index, history, posts, attributes=False, for_posts=True)

    def _add_candidate(
        self, index: int, history: _History, kept: list[int], attributes: bool, for_posts: bool
    ) -> None:
        candidate = len(self.candidates)
        target = self._post(history.row.prompt)
        self.candidates.append((index, for_posts, attributes, target))
        self.items += [(candidate, item, self._post(history.items[item].prompt)) for item in kept]

    def _post(self, text: str) -> int:
        key = post_key(text)
        number = text_hash(key)
        self.posts[number] = key
        return number

    def verdicts(self) -> Verdicts:
        """Everything that was found."""
        rows, broken = _columns(self.rows, 3), _columns(sorted(self.broken), 3)
        candidates, items = _columns(self.candidates, 4), _columns(self.items, 3)
        key_rows = np.repeat(np.arange(len(self.rows)), self.keys_of_rows)
        return Verdicts(
            units=self.units,
            row_numbers=np.array(rows[0], np.int32),
            row_starts=np.array(rows[1], np.int64),
            row_lengths=np.array(rows[2], np.int32),
            key_hashes=np.frombuffer(b"".join(self.keys), np.uint64),
            key_rows=key_rows.astype(np.int32),
            candidate_rows=np.array(candidates[0], np.int32),
            candidate_posts=np.array(candidates[1], np.bool_),
            candidate_attributes=np.array(candidates[2], np.bool_),
            candidate_targets=np.array(candidates[3], np.uint64),
            item_candidates=np.array(items[0], np.int32),
            item_indices=np.array(items[1], np.int32),
            item_posts=np.array(items[2], np.uint64),
            post_hashes=np.array(list(self.posts), np.uint64),
            post_signatures=signatures_of(list(self.posts.values())),
            broken_numbers=np.array(broken[0], np.int32),
            broken_starts=np.array(broken[1], np.int64),
            broken_lengths=np.array(broken[2], np.int32),
            counts=dict(sorted(self.counts.items())),
        )


@dataclass(frozen=True)
class _History:
    """The history of a row: its items (posts, then comparisons), and of each its key and vector."""

    row: SourceRow
    items: Sequence[_PostItem | _PairItem]
    keys: Sequence[bytes]
    agrees: npt.NDArray[np.bool_]
    codes: Codes

    def has_attributes(self) -> bool:
        return bool((self.row.attributes or "").strip())

    def kept(
        self, kind: SignalKind, target: Codes, needed: int, dropped: Counter[str]
    ) -> list[int]:
        """The items that may stay; few of them if it is clear that they are fewer than needed."""
        posts = len(self.row.posts or ())
        places = {
            "posts": range(posts),
            "comparisons": range(posts, len(self.items)),
            "mixed": range(len(self.items)),
        }[kind]
        kept: list[int] = []
        if np.count_nonzero(self.agrees[places.start : places.stop]) + (kind == "mixed") < needed:
            return kept
        seen: set[tuple[str, ...]] = set()
        held = target
        for place in places:
            item, codes = self.items[place], self.codes[place]
            reason = ""
            if not self.keys[place]:
                reason = "no_text_or_equal_replies"
            elif not self.agrees[place]:
                reason = "other_directions"
            elif item.texts() in seen:
                reason = "repeated"
            elif ((codes != held) & (codes != NEUTRAL) & (held != NEUTRAL)).any():
                reason = "conflict"
            if reason:
                dropped[f"signals_dropped/{reason}"] += 1
                continue
            seen.add(item.texts())
            held = np.where(held == NEUTRAL, codes, held)
            kept.append(place)
        return kept


def _row_from_unusual_json(line: bytes, dimensions: Sequence[Dimension]) -> SourceRow | None:
    try:
        value = value_of(line)
    except ValueError:
        return None
    if read_row(Row(value, 0, ""), dimensions, Problems(), Counter()) is None:
        return None
    wanted = (*PAIR_FIELDS, DIRECTIONS_FIELD, ATTRIBUTES_FIELD, POSTS_FIELD, PAIRS_FIELD)
    known = {key: value[key] for key in wanted if key in value}
    user = value.get("user")
    return _decoder.decode(
        msgspec.json.encode(known | {"user": None if user is None else str(user)})
    )


def _is_well_formed(row: SourceRow) -> bool:
    """What the format asks of texts; the same questions as `read_row` asks, without words."""
    if row.chosen == row.rejected or not (
        row.prompt.strip() and row.chosen.strip() and row.rejected.strip()
    ):
        return False
    if not (row.attributes or row.posts or row.pairs):
        return False
    if row.user is not None and not str(row.user).strip():
        return False
    post = row.prompt
    for pair in row.pairs or ():
        if pair.prompt == post and {pair.chosen, pair.rejected} == {row.chosen, row.rejected}:
            return False
    return True


def _codes_of_one(vector: bytes, length: int) -> Codes:
    values = json.loads(vector)
    codes = np.full((1, length), UNREADABLE, np.uint8)
    if isinstance(values, list) and len(values) == length:
        known = {0: 0, 1: 1, 0.5: NEUTRAL}
        numbers = [
            -1 if isinstance(value, bool) or not isinstance(value, int | float) else value
            for value in values
        ]
        codes[0] = [known.get(number, UNREADABLE) for number in numbers]
    return codes


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch

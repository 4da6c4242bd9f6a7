"""A file of ALIGNX's size -> refined sets, in two passes.

The first pass judges the rows, chunk by chunk, and keeps what it finds in the run's folder: a run
that was interrupted goes on with the chunks that are missing. Then users, near-duplicate posts and
sets are found from numbers alone. The second pass reads the chosen rows again and writes them.

Everything is a function of the files, the rules and the seed, whoever reads which chunk.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignxplore_trl.data.alignx import (
    compose_description,
    preferred_poles,
)
from alignxplore_trl.data.near_duplicates import connected, groups_of_posts, linked_by
from alignxplore_trl.data.privacy import PLACEHOLDERS, anonymise_case
from alignxplore_trl.data.refinement import (
    Hashes,
    Numbers,
    Places,
    Rules,
    Verdicts,
    directions_of,
    judge_and_save,
    problems_of_row,
    row_from_json,
    text_hash,
)
from alignxplore_trl.data.row_files import (
    CHUNK_BYTES,
    Chunk,
    RowFile,
    RowSpan,
    chunks_of,
    find_files,
    read_again,
    rows_of,
    unit_of,
)
from alignxplore_trl.data.rows import MOST_PROBLEMS_SHOWN
from alignxplore_trl.data.sources import write_split
from alignxplore_trl.data.splits import SPLITS
from alignxplore_trl.data.world import RefinedSplit
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_text_atomic
from alignxplore_trl.run.progress import progress, say
from alignxplore_trl.signals import PreferenceCase

# What is measured is filled first, so that training gives way.
FILLING_ORDER: tuple[RefinedSplit, ...] = ("test", "test_posts", "validation", "cold_start", "rl")
REFINED_SPLITS: tuple[RefinedSplit, ...] = (*SPLITS, "test_posts")
# What a row needs to serve every setting that is measured: two rounds of four, or eight at once.
SIGNALS_OF_ALL_SETTINGS = 8
_NOBODY = -1


@dataclass(frozen=True)
class Wanted:
    """How large the sets are to be, and what makes two posts one.

    Attributes:
        sizes: users of each set.
        similarity: estimated Jaccard similarity from which on two posts are the same.
        seed: decides which users go into which set.
    """

    sizes: Mapping[RefinedSplit, int]
    similarity: float
    seed: int


def has_directions(source: str) -> bool:
    """Whether the first readable row has a direction vector; no, if there is none.

    Raises:
        UserError: there are no such files, or rows in one can't be told apart.
    """
    for file in find_files(source):
        for chunk in chunks_of(file):
            for _, line in rows_of(chunk):
                row = None if line.isspace() else row_from_json(line, ())
                if row is not None:
                    return bytes(row.directions) != b"null"
    return False


def refine(
    source: str,
    folder: Path,
    rules: Rules,
    wanted: Wanted,
    *,
    workers: int,
    strict: bool,
    chunk_bytes: int = CHUNK_BYTES,
) -> dict[str, int]:
    """Write the refined sets of a source, `<split>.parquet` each, and count what was left out.

    Args:
        source: see `find_files`.
        folder: where the sets go, and what is kept until `remove_parts`.
        rules: of a row.
        wanted: the sets. With fewer users than asked for, each is made smaller in proportion.
        workers: processes that read; the files are the same with any number.
        strict: whether a row that isn't in the format is an error, told when all have been read.
        chunk_bytes: of JSON that one process reads at once.

    Returns:
        Counts for `summary.json`, by reason.

    Raises:
        UserError: the source can't be read, has changed since the run was interrupted, or holds no
            row for a set that is wanted (the test with posts may stay empty); with `strict`, rows
            that aren't in the format.
    """
    files = find_files(source)
    parts = _parts_folder(folder, files)
    chunks = judge_files(files, parts, rules, workers, chunk_bytes)
    table = _Table.of(files, chunks, parts)
    _report_broken(table, rules, strict)
    counts = Counter(table.counts)
    chosen = _Selection(table, rules, wanted, counts).choose()
    _check_none_is_empty(chosen, wanted, counts)
    counts.update(_write(folder, table, chosen, rules))
    return dict(sorted(counts.items()))


def remove_parts(folder: Path) -> None:
    """Delete what an interrupted run would have gone on with."""
    shutil.rmtree(folder / ".parts", ignore_errors=True)


# --- the first pass -------------------------------------------------------------------------------
def _parts_folder(folder: Path, files: Sequence[RowFile]) -> Path:
    """Where verdicts are kept, and the check that they are of these very files."""
    parts = folder / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    stats = [(file.path, file.path.stat()) for file in files]
    now = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    remembered = parts / "files.json"
    if not remembered.is_file():
        write_text_atomic(remembered, json.dumps(now))
    elif json.loads(remembered.read_text()) != now:
        raise UserError(
            f"{folder}: was begun with other rows: the files, their sizes or their times of change "
            f"are not those of {remembered}; delete the folder, or name this run (RUN=<name>)"
        )
    return parts


def judge_files(
    files: Sequence[RowFile], parts: Path, rules: Rules, workers: int, chunk_bytes: int
) -> list[Chunk]:
    """The first pass: see that the verdicts of every chunk are in `parts`, and list the chunks."""
    chunks = list(chain.from_iterable(chunks_of(file, chunk_bytes) for file in files))
    missing = [number for number in range(len(chunks)) if not _part(parts, number).is_file()]
    if len(missing) < len(chunks):
        say(f"{len(chunks) - len(missing)} of {len(chunks)} chunks have been read before")
    jobs = [(chunks[number], rules, _part(parts, number)) for number in missing]
    for _ in progress(_run(jobs, workers), "reading rows (chunks)", len(jobs)):
        pass
    return chunks


def _run(jobs: Sequence[tuple[Chunk, Rules, Path]], workers: int) -> Iterator[None]:
    """Judge chunks, in this process and `workers` - 1 others."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            judge_and_save(*job)
            yield
        return
    # Spawned, not forked: the libraries that read files have threads of their own.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)) - 1, mp_context=context) as pool:
        futures = [pool.submit(judge_and_save, *job) for job in jobs]
        try:
            # The others begin at the start of the list, and this process at its end.
            for job, future in zip(reversed(jobs), reversed(futures), strict=True):
                if future.cancel():
                    judge_and_save(*job)
                else:
                    future.result()
                yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


# --- what is known of all rows --------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """The verdicts of all chunks, one behind the other, with rows numbered through.

    Attributes:
        files: the files.
        row_files: of each readable row its file, and so on: as in `Verdicts`.
        users: of each row, the first row of the same user.
        item_starts: where the items of each candidate start, and behind the last one all end.
        signatures: of the different posts, in the order of `posts`.
    """

    files: Sequence[RowFile]
    row_files: Numbers
    row_numbers: Places
    row_starts: Places
    row_lengths: Numbers
    users: Places
    candidate_rows: Places
    candidate_posts: npt.NDArray[np.bool_]
    candidate_attributes: npt.NDArray[np.bool_]
    candidate_targets: Hashes
    item_starts: Places
    item_indices: Numbers
    item_posts: Hashes
    posts: Hashes
    signatures: npt.NDArray[np.uint32]
    broken: Sequence[tuple[int, int, RowSpan]]
    counts: dict[str, int]

    @classmethod
    def of(cls, files: Sequence[RowFile], chunks: Sequence[Chunk], parts: Path) -> _Table:
        """Put the verdicts of all chunks together."""
        columns: dict[str, list[Any]] = {name: [] for name in Verdicts.__dataclass_fields__}
        row_files: list[npt.NDArray[Any]] = []
        broken: list[tuple[int, int, RowSpan]] = []
        counts: Counter[str] = Counter()
        rows = candidates = units = 0
        file: RowFile | None = None
        for number, chunk in enumerate(chunks):
            part = Verdicts.load(_part(parts, number))
            units, file = (units if chunk.file == file else 0), chunk.file
            place = files.index(chunk.file)
            broken += [
                (place, units + 1 + line, RowSpan(start, length))
                for line, start, length in zip(
                    part.broken_numbers.tolist(),
                    part.broken_starts.tolist(),
                    part.broken_lengths.tolist(),
                    strict=True,
                )
            ]
            shifts = {
                "row_numbers": units + 1,
                "key_rows": rows,
                "candidate_rows": rows,
                "item_candidates": candidates,
            }
            for name, collected in columns.items():
                value = getattr(part, name)
                shift = shifts.get(name, 0)
                collected.append(value.astype(np.int64) + shift if shift else value)
            row_files.append(np.full(len(part.row_numbers), place, np.int32))
            counts.update(part.counts)
            units += part.units
            rows += len(part.row_numbers)
            candidates += len(part.candidate_rows)

        def whole(name: str, dtype: Any) -> Any:
            return np.concatenate([np.empty(0, dtype), *columns.pop(name)]).astype(
                dtype, copy=False
            )

        users = _first_of_groups(whole("key_rows", np.int64), whole("key_hashes", np.uint64), rows)
        posts, first = np.unique(whole("post_hashes", np.uint64), return_index=True)
        signatures = np.concatenate(columns.pop("post_signatures"))[first] if chunks else None
        counts.update(
            rows=rows + len(broken), rows_broken=len(broken), users=len(np.unique(users)),
            posts=len(posts),
        )  # fmt: skip
        item_candidates = whole("item_candidates", np.int64)
        return cls(
            files=files,
            row_files=np.concatenate([np.empty(0, np.int32), *row_files]),
            row_numbers=whole("row_numbers", np.int64),
            row_starts=whole("row_starts", np.int64),
            row_lengths=whole("row_lengths", np.int32),
            users=users,
            candidate_rows=whole("candidate_rows", np.int64),
            candidate_posts=whole("candidate_posts", np.bool_),
            candidate_attributes=whole("candidate_attributes", np.bool_),
            candidate_targets=whole("candidate_targets", np.uint64),
            item_starts=np.searchsorted(item_candidates, np.arange(candidates + 1)),
            item_indices=whole("item_indices", np.int32),
            item_posts=whole("item_posts", np.uint64),
            posts=posts,
            signatures=np.empty((0, 1), np.uint32) if signatures is None else signatures,
            broken=broken,
            counts=dict(counts),
        )

    def name_of_row(self, row: int) -> str:
        """What a row is called: its file and its line."""
        return f"{self.files[self.row_files[row]].name}-{self.row_numbers[row]}"


def _first_of_groups(items: Places, keys: Hashes, count: int) -> Places:
    """For each item the first one that is connected with it through keys."""
    labels = connected(items[linked_by(keys)], count)
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[group], np.int64)


def _report_broken(table: _Table, rules: Rules, strict: bool) -> None:
    """Tell which rows aren't in the format, the first of many by their words.

    Raises:
        UserError: there are some and `strict`, or nothing else was found.
    """
    if not table.broken and len(table.row_numbers):
        return
    problems: list[str] = []
    for place, number, span in table.broken[:MOST_PROBLEMS_SHOWN]:
        file = table.files[place]
        ((_, line),) = read_again(file, {span})
        problems += problems_of_row(
            line, f"{file.path}, {unit_of(file)} {number}", rules.dimensions
        )
    if (hidden := len(table.broken) - MOST_PROBLEMS_SHOWN) > 0:
        problems.append(f"{hidden} more rows that aren't in the format")
    if strict or not len(table.row_numbers):
        raise UserError(problems or [f"{table.files[0].path}: no rows found, expected some"])
    for problem in problems:
        say(f"left out: {problem}")
    say(f"{len(table.broken)} of {table.counts['rows']} rows aren't in the format and are left out")


# --- the sets -------------------------------------------------------------------------------------
class _Selection:
    """Fills the sets one after the other: one row per user, and no post in two sets."""

    def __init__(self, table: _Table, rules: Rules, wanted: Wanted, counts: Counter[str]) -> None:
        self.table, self.rules, self.wanted, self.counts = table, rules, wanted, counts
        groups = groups_of_posts(table.signatures, wanted.similarity)
        counts["posts_near_duplicate"] = len(groups) - len(np.unique(groups))
        self.target_groups = groups[np.searchsorted(table.posts, table.candidate_targets)]
        self.item_groups = groups[np.searchsorted(table.posts, table.item_posts)]
        self.owners = np.full(len(groups), _NOBODY, np.int8)
        self.is_used = np.zeros(len(table.users), bool)

    def choose(self) -> dict[RefinedSplit, list[tuple[int, list[int]]]]:
        """For each set, its candidates and the items that each of them keeps."""
        order = self._order()
        with_posts = self.table.candidate_posts[order]
        queues = {False: iter(order[~with_posts].tolist()), True: iter(order[with_posts].tolist())}
        shares = self._shares()
        chosen = {}
        for split in FILLING_ORDER:
            for_posts = split == "test_posts"
            asked = self.wanted.sizes.get(split, 0)
            chosen[split] = self._fill(split, queues[for_posts], asked * shares[for_posts])
            self.counts[f"cases/{split}"] = len(chosen[split])
            if len(chosen[split]) < asked:
                self.counts[f"cases_missing/{split}"] = asked - len(chosen[split])
        for for_posts, queue in queues.items():
            name = "rows_with_posts_left_over" if for_posts else "rows_left_over"
            self.counts[name] += sum(1 for _ in queue)
        return chosen

    def _order(self) -> Places:
        """Candidates connected through posts next to each other, otherwise by chance."""
        table, candidates = self.table, len(self.table.candidate_rows)
        chance = np.array(
            [
                text_hash(str(self.wanted.seed), table.name_of_row(row))
                for row in table.candidate_rows.tolist()
            ],
            np.uint64,
        )
        item_candidates = np.repeat(np.arange(candidates), np.diff(table.item_starts))
        links = np.concatenate(
            [
                np.stack([np.arange(candidates), candidates + self.target_groups], axis=1),
                np.stack([item_candidates, candidates + self.item_groups], axis=1),
            ]
        )
        parts = connected(links, candidates + len(self.owners))[:candidates]
        first = np.full(candidates + len(self.owners), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, parts, chance)
        return np.lexsort((chance, first[parts]))

    def _shares(self) -> dict[bool, float]:
        """How much of what is asked for there may be, without and with posts."""
        users = self.table.users[self.table.candidate_rows]
        of_kind = {kind: users[self.table.candidate_posts == kind] for kind in (False, True)}
        asked = Counter({False: 0, True: 0})
        for split, size in self.wanted.sizes.items():
            asked[split == "test_posts"] += size
        of_all = len(np.unique(users)) / max(1, sum(asked.values()))
        return {
            kind: min(1.0, of_all, len(np.unique(found)) / max(1, asked[kind]))
            for kind, found in of_kind.items()
        }

    def _fill(
        self, split: RefinedSplit, queue: Iterator[int], size: float
    ) -> list[tuple[int, list[int]]]:
        number = FILLING_ORDER.index(split)
        rows = "rows_with_posts" if split == "test_posts" else "rows"
        taken: list[tuple[int, list[int]]] = []
        self.counts[f"cases_base_only/{split}"] = 0
        while len(taken) < size and (candidate := next(queue, None)) is not None:
            user = self.table.users[self.table.candidate_rows[candidate]]
            if self.is_used[user]:
                self.counts[f"{rows}_dropped/same_user"] += 1
                continue
            items = self._free_items(candidate, number)
            if items is None:
                self.counts[f"{rows}_dropped/shared_post"] += 1
                continue
            start, end = self.table.item_starts[candidate : candidate + 2]
            self.counts["signals_dropped/shared_post"] += int(end - start) - len(items)
            self.owners[self.target_groups[candidate]] = number
            self.owners[self.item_groups[items]] = number
            self.is_used[user] = True
            taken.append((candidate, items))
            signals = len(items) + bool(self.table.candidate_attributes[candidate])
            self.counts[f"cases_base_only/{split}"] += signals < SIGNALS_OF_ALL_SETTINGS
        return taken

    def _free_items(self, candidate: int, number: int) -> list[int] | None:
        """The items whose posts no other set has; `None` if they or the target don't suffice."""
        start, end = self.table.item_starts[candidate : candidate + 2]
        free = (_NOBODY, number)
        if self.owners[self.target_groups[candidate]] not in free:
            return None
        items = [item for item in range(start, end) if self.owners[self.item_groups[item]] in free]
        signals = len(items) + bool(self.table.candidate_attributes[candidate])
        for_posts = self.table.candidate_posts[candidate]
        needed = self.rules.posts_needed if for_posts else self.rules.signals_needed
        return items if signals >= needed else None


def _check_none_is_empty(
    chosen: Mapping[RefinedSplit, Sequence[Any]], wanted: Wanted, counts: Mapping[str, int]
) -> None:
    empty = [split for split in SPLITS if wanted.sizes.get(split, 0) and not chosen[split]]
    if empty:
        reasons = ", ".join(
            f"{name} {count}" for name, count in sorted(counts.items()) if "_dropped/" in name
        )
        raise UserError(
            f"data.counts: no rows are left for {', '.join(empty)}: {counts.get('rows_passed', 0)} "
            f"of {counts['rows']} rows pass the rules ({reasons}); expected "
            f"{sum(wanted.sizes.values())} users. Rows with signals for the base setting only "
            "(rows_dropped/base_setting_only) are taken with setting=base and "
            "data.signals_per_user=4; rows without directions are split as they are with "
            "data.refine=false"
        )


# --- the second pass ------------------------------------------------------------------------------
def _write(
    folder: Path,
    table: _Table,
    chosen: Mapping[RefinedSplit, Sequence[tuple[int, list[int]]]],
    rules: Rules,
) -> dict[str, int]:
    """Write the sets; what was anonymised is counted."""
    found: Counter[str] = Counter()
    lines = _lines_of(table, _rows_chosen(table, chosen))
    for split in progress(REFINED_SPLITS, "writing sets", len(REFINED_SPLITS)):
        cases = [
            _case(table, candidate, items, lines, rules, found)
            for candidate, items in chosen[split]
        ]
        write_split(folder, split, cases)
    kinds = ("cases", *PLACEHOLDERS) if rules.anonymise else ()
    return {f"anonymised/{kind}": found[kind] for kind in kinds}


def _rows_chosen(
    table: _Table, chosen: Mapping[RefinedSplit, Sequence[tuple[int, list[int]]]]
) -> Iterator[int]:
    for taken in chosen.values():
        yield from (int(table.candidate_rows[candidate]) for candidate, _ in taken)


def _lines_of(table: _Table, rows: Iterable[int]) -> dict[int, bytes]:
    """The JSON of rows, read once through the files."""
    spans: dict[int, dict[RowSpan, int]] = {place: {} for place in range(len(table.files))}
    for row in rows:
        span = RowSpan(int(table.row_starts[row]), int(table.row_lengths[row]))
        spans[int(table.row_files[row])][span] = row
    return {
        found[span]: line
        for place, found in spans.items()
        for span, line in read_again(table.files[place], found)
    }


def _case(
    table: _Table,
    candidate: int,
    items: Sequence[int],
    lines: Mapping[int, bytes],
    rules: Rules,
    found: Counter[str],
) -> PreferenceCase:
    number = int(table.candidate_rows[candidate])
    row = row_from_json(lines[number], rules.dimensions)
    assert row is not None  # It could be read before.
    directions = preferred_poles(directions_of(row, rules.dimensions), rules.dimensions)
    is_named = row.user is not None and not rules.anonymise
    first_row = table.name_of_row(int(table.users[number]))
    file, _, first_number = first_row.rpartition("-")
    case = PreferenceCase(
        case_id=table.name_of_row(number),
        user_id=str(row.user) if is_named else f"{file}-user-of-{first_number}",
        signals=row.signals(
            bool(table.candidate_attributes[candidate]),
            [int(table.item_indices[item]) for item in items],
        ),
        target=row.target(),
        directions=directions,
        description=compose_description(directions.values()),
    )
    if not rules.anonymise:
        return case
    before = found.total()
    case = anonymise_case(case, found)
    found["cases"] += found.total() > before
    return case

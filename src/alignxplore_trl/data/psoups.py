"""P-SOUPS: pairs of replies that differ in one dimension, in both of its directions; test only.

A file holds one dimension. The description of a row, `ground_truth_persona`, says which of the two
directions its pairs were chosen in. There are no users: whoever has one direction of one dimension
counts as one.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignxplore_trl.data.privacy import anonymise_cases
from alignxplore_trl.data.rows import (
    Row,
    post_key,
    raise_the_first,
    read_rows,
    shown,
    texts_of,
)
from alignxplore_trl.data.splits import CaseSplits
from alignxplore_trl.data.world import Split
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Comparison, PreferenceCase

DESCRIPTION_FIELD = "ground_truth_persona"
PAIRS_FIELD = "Pair-wise Comparative Feedback"
PAIR_FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PsoupsRow:
    """A test pair, the pairs that the file gives as its history, and the direction of them all."""

    number: int
    description: str
    target: Comparison
    history: tuple[Comparison, ...]


def load_psoups(
    path: Path,
    signals: int,
    counts: Mapping[Split, int],
    seed: int,
    *,
    reverse: bool = False,
    anonymise: bool = False,
) -> CaseSplits:
    """Read the cases of a P-SOUPS file, or of all files of a folder; all of them are test cases.

    Args:
        path: a file of one dimension, `<dimension>.json`, or a folder of such files. A `psoups_`
            before the dimension does no harm.
        signals: how many pairs each case has as its history.
        counts: how many test cases there are at most; the first ones are taken.
        seed: of the draw of histories.
        reverse: swap the chosen and the rejected reply of every pair, so that the true direction is
            the other one.
        anonymise: whether links, addresses, numbers and user names are replaced.

    Raises:
        UserError: there is no such file, a file is not in the format, or no case is left.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"data.path: the folder {path} has no .json files, one per dimension")
    found: Counter[str] = Counter()
    cases: list[PreferenceCase] = []
    for file in files:
        dimension = file.stem.removeprefix("psoups_")
        rows = _read_file(file)
        found["rows"] += len(rows)
        for case, others in _cases(dimension, rows, signals, seed, found):
            cases.append(_reversed(case, dimension, others) if reverse else case)
    if anonymise:
        anonymised = anonymise_cases(cases, signals)
        cases = anonymised.cases
        found.update(anonymised.counts)
    kept = cases[: counts.get("test", 0)]
    if not kept:
        raise UserError(
            f"data.signals_per_user: {signals} found, but no case of {path} has as many pairs of "
            "its direction about other posts; ask for fewer"
        )
    found["cases/test"] = len(kept)
    found["cases_left_over"] = len(cases) - len(kept)
    for case in kept:
        found[f"cases/{case.user_id}"] += 1
        is_longer = len(case.target.chosen) > len(case.target.rejected)
        found[f"chosen_is_longer/{case.user_id}"] += is_longer
    found["clusters/test"] = len({case.cluster for case in kept})
    return CaseSplits([], [], [], kept, dict(sorted(found.items())))


def _read_file(path: Path) -> list[PsoupsRow]:
    problems = Problems()
    read = [_read_row(row, problems) for row in read_rows(path, problems)]
    rows = [row for row in read if row is not None]
    directions = list(dict.fromkeys(row.description for row in rows))
    if not problems.found and len(directions) != 2:
        problems.add(
            f"{path}, {DESCRIPTION_FIELD}: {len(directions)} different descriptions found, "
            "expected two, one for each direction of the file's one dimension"
        )
    raise_the_first(problems, path)
    return rows


def _read_row(row: Row, problems: Problems) -> PsoupsRow | None:
    before = len(problems.found)
    if not isinstance(row.value, dict):
        problems.add(f"{row.place}: {shown(row.value)} found, expected an object")
        return None
    texts = texts_of(row.value, (*PAIR_FIELDS, DESCRIPTION_FIELD), row.place, problems)
    items = row.value.get(PAIRS_FIELD)
    if not isinstance(items, list):
        problems.add(f"{row.place}, {PAIRS_FIELD}: {shown(items)} found, expected a list of pairs")
        return None
    history = read_pairs(items, f"{row.place}, {PAIRS_FIELD}", problems)
    if texts and texts[1] == texts[2]:
        problems.add(f"{row.place}, chosen and rejected: the replies are equal; remove the row")
    if len(problems.found) > before:
        return None
    post, chosen, rejected, description = texts
    return PsoupsRow(row.number, description, Comparison(post, chosen, rejected), history)


def read_pairs(items: Sequence[Any], place: str, problems: Problems) -> tuple[Comparison, ...]:
    """The pairs of a history; those that lack a text are missing, and a problem each."""
    pairs = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            problems.add(f"{place} item {number}: {shown(item)} found, expected an object")
        elif texts := texts_of(item, PAIR_FIELDS, f"{place} item {number}", problems):
            post, chosen, rejected = texts
            pairs.append(Comparison(post, chosen, rejected))
    return tuple(pairs)


def _cases(
    dimension: str, rows: Sequence[PsoupsRow], signals: int, seed: int, counts: Counter[str]
) -> Iterator[tuple[PreferenceCase, str]]:
    """The cases of a file, each with the description of the other direction."""
    directions = list(dict.fromkeys(row.description for row in rows))
    pools = {direction: _pool(rows, direction) for direction in directions}
    for row in rows:
        case_id = f"psoups-{dimension}-{row.number}"
        draw = random.Random(f"{seed}/{case_id}")
        pool = pools[row.description]
        history = _history(row, draw.sample(pool, len(pool)), signals, counts)
        if len(history) < signals:
            counts["cases_dropped/too_few_signals"] += 1
            continue
        direction = directions.index(row.description)
        case = PreferenceCase(
            case_id=case_id,
            user_id=f"psoups-{dimension}-direction-{direction + 1}",
            signals=tuple(history),
            target=row.target,
            directions={dimension: row.description},
            description=row.description,
            cluster=_cluster(dimension, row.target),
        )
        yield case, directions[1 - direction]


def _pool(rows: Sequence[PsoupsRow], direction: str) -> list[Comparison]:
    """All different pairs of a direction, in the order of the file."""
    pairs = [
        pair for row in rows if row.description == direction for pair in (row.target, *row.history)
    ]
    return [pair for pair in dict.fromkeys(pairs) if pair.chosen != pair.rejected]


def _history(
    row: PsoupsRow, drawn: Sequence[Comparison], signals: int, counts: Counter[str]
) -> list[Comparison]:
    """The row's own pairs, then drawn ones; each about a post of its own, none the target's."""
    posts = {post_key(row.target.post)}
    history: list[Comparison] = []
    for number, pair in enumerate((*row.history, *drawn)):
        if len(history) == signals:
            break
        key = post_key(pair.post)
        if key not in posts and pair.chosen != pair.rejected:
            posts.add(key)
            history.append(pair)
            counts["signals_drawn"] += number >= len(row.history)
        elif number < len(row.history):
            is_targets = key == post_key(row.target.post)
            counts[f"signals_dropped/{'targets_post' if is_targets else 'repeated_post'}"] += 1
    return history


def _cluster(dimension: str, target: Comparison) -> str:
    """The target's name for the statistics: rows with the same post and replies are one cluster."""
    texts = json.dumps([target.post, *sorted((target.chosen, target.rejected))])
    return f"psoups-{dimension}-{hashlib.sha256(texts.encode()).hexdigest()[:16]}"


def _reversed(case: PreferenceCase, dimension: str, others: str) -> PreferenceCase:
    """The same posts and replies, chosen the other way round, and so the other direction."""
    return replace(
        case,
        case_id=f"{case.case_id}-reversed",
        signals=tuple(s.reversed() for s in case.signals if isinstance(s, Comparison)),
        target=case.target.reversed(),
        directions={dimension: others},
        description=others,
    )

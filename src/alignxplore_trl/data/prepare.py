"""A data source, whatever it is -> the files that every later stage reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from alignxplore_trl.cases import Case, write_lines


class Source(Protocol):
    """Where cases come from. Constructors take settings only; nothing is read before `cases`."""

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """The cases of each split, which share no user and no post.

        `counts` is given what was kept and left out, by reason; all that is drawn is a function of
        the seed.
        """
        ...


def prepare(source: Source, folder: Path, seed: int) -> dict[str, int]:
    """Write `<split>.jsonl` for each split of a source, and give the counts for the summary.

    A source that has more than cases says so by a method `published(counts, splits)`, whose rows
    are written to `<name>.jsonl` (see `data.release`). The same source gives the same bytes, and no
    file is ever half written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    splits = source.cases(counts, seed)
    written: dict[str, Sequence[object]] = {f"cases/{split}": own for split, own in splits.items()}
    if hasattr(source, "published"):
        published = source.published(counts, splits)
        written |= {f"rows/{name}": rows for name, rows in published.items()}
    for name, rows in written.items():
        write_lines(folder / f"{name.partition('/')[2]}.jsonl", rows)
        counts[name] = len(rows)
    return dict(sorted(counts.items()))

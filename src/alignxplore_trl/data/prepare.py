"""A data source, whatever it is -> the files that every later stage reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import msgspec

from alignxplore_trl.cases import Case, write_cases


class Source(Protocol):
    """Where cases come from. Constructors take settings only; nothing is read before `cases`."""

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """The cases of each split, which share no user and no post.

        Args:
            counts: is given what was kept and left out, by reason.
            seed: of everything that is drawn.
        """
        ...


def prepare(source: Source, folder: Path, seed: int) -> dict[str, int]:
    """Write `<split>.jsonl` for each split of a source.

    A source that has more than cases says so by a method `published() -> {name: rows}`, which is
    called after `cases` and whose rows are written to `<name>.jsonl` (see `data.release`). The same
    source gives the same bytes, and no file is ever half written.

    Returns:
        Counts for the summary: the source's own, `cases/<split>` and `rows/<name>`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for split, cases in source.cases(counts, seed).items():
        write_cases(folder / f"{split}.jsonl", cases)
        counts[f"cases/{split}"] = len(cases)
    published: dict[str, list[dict[str, Any]]] = getattr(source, "published", dict)()
    for name, rows in published.items():
        part = folder / f"{name}.part"
        part.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        part.replace(folder / f"{name}.jsonl")
        counts[f"rows/{name}"] = len(rows)
    return dict(sorted(counts.items()))

"""Rows in the shape of ALIGNX that pass its refinement, with any number of pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def alignx_rows(
    count: int, pairs: int, words: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    """So many rows of so many pairs; texts are drawn from `words`, some 90 in a pair."""
    draw = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    for _ in range(count):
        poles = {place: draw.choice([0, 1]) for place in draw.sample(range(90), 6)}

        def item(poles: Mapping[int, int] = poles) -> dict[str, Any]:
            vector = [poles.get(place, 0.5) for place in range(90)]
            return {"prompt": text(30), "Preference Direction": vector}

        def pair() -> dict[str, Any]:
            return item() | {"chosen": text(30), "rejected": text(30)}

        yield pair() | {
            "Demographic Information": text(9),
            "User-Generated Content": [item() | {"comment": text(20)} for _ in range(4)],
            "Pair-wise Comparative Feedback": [pair() for _ in range(pairs)],
        }

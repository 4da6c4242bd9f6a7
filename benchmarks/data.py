"""How fast, and in how much memory, rows of ALIGNX's shape become refined cases.

    python benchmarks/data.py [rows]

Rows are drawn (8 comparisons, 2 to 4 posts, vectors of 90 numbers; some 10 kB each), 3 % of them
planted to pass the rules; that as many pass is checked. 100,000 rows by default: a million take ten
times as long, and 11 GB of disk. The last line is one JSON object:

    rows, seconds, rows_per_second   of the whole preparation: reading, refining, splitting, writing
    cpu_seconds                      of that, the time that a core was at it
    seconds_at_a_million             at the same rate
    peak_mb                          largest resident memory
    torch                            whether torch was loaded: it shouldn't be
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from alignxplore_trl.data.alignx import AlignX, Dimension
from alignxplore_trl.data.prepare import prepare

DIMENSIONS, PAIRS, POSTS, PASSING_OF_100 = 90, 8, 4, 3
SIZES = {"test": 3000, "validation": 500, "cold_start": 7000, "rl": 7000}


class Rows:
    """Rows of ALIGNX's shape; texts and vectors are put together from pools."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        words = ["".join(self.draw.choices("abcdefghiklmnoprstuvw", k=6)) for _ in range(5000)]
        self.clauses = [" ".join(self.draw.choices(words, k=6)) for _ in range(4000)]
        self.replies = [" ".join(self.draw.choices(words, k=24)) for _ in range(4000)]
        self.vectors = [json.dumps(self._vector(self._poles())) for _ in range(2000)]
        self.families = [self._family() for _ in range(300)]

    def lines(self, count: int) -> Iterator[str]:
        """So many rows, as JSON."""
        for number in range(count):
            if number % 100 < PASSING_OF_100:
                yield self._row(number, *self.draw.choice(self.families), POSTS)
            else:
                yield self._row(number, self.vectors[number % 2000], self.vectors, 2)

    def _row(self, number: int, target: str, vectors: list[str], posts: int) -> str:
        choose = self.draw.choice
        pairs = ", ".join(self._pair(number, choose(vectors)) for _ in range(PAIRS))
        comments = ", ".join(
            f'{{"prompt": "{self._post()}", "comment": "{choose(self.replies)}", '
            f'"Preference Direction": {choose(vectors)}}}'
            for _ in range(posts)
        )
        return (
            f'{{{self._pair(number, target)[1:-1]}, "Demographic Information": "in their thirties",'
            f' "User-Generated Content": [{comments}], '
            f'"Pair-wise Comparative Feedback": [{pairs}]}}'
        )

    def _post(self) -> str:
        return " ".join(self.draw.choices(self.clauses, k=3))

    def _pair(self, number: int, vector: str) -> str:
        choose = self.draw.choice
        return (
            f'{{"prompt": "{self._post()}", "chosen": "{choose(self.replies)} {number}", '
            f'"rejected": "{choose(self.replies)}", "Preference Direction": {vector}}}'
        )

    def _family(self) -> tuple[str, list[str]]:
        """A target's vector, and vectors that agree with it and with each other."""
        poles = {place: self.draw.choice((0, 1)) for place in range(DIMENSIONS)}
        target = dict(self.draw.sample(sorted(poles.items()), self.draw.randint(5, 9)))
        others = [target | dict(self.draw.sample(sorted(poles.items()), 3)) for _ in range(12)]
        return json.dumps(self._vector(target)), [json.dumps(self._vector(one)) for one in others]

    def _poles(self) -> dict[int, int]:
        places = self.draw.sample(range(DIMENSIONS), self.draw.randint(1, 10))
        return {place: self.draw.choice((0, 1)) for place in places}

    def _vector(self, poles: dict[int, int]) -> list[float]:
        return [poles.get(place, 0.5) for place in range(DIMENSIONS)]


def main(rows: int) -> None:
    """Draw the rows, prepare them, and write what it took."""
    dimensions = [Dimension(f"d{n}", "is so", "is not so") for n in range(DIMENSIONS)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        with path.open("w") as stream:
            stream.writelines(f"{line}\n" for line in Rows(0).lines(rows))
        began, on_cpu = time.perf_counter(), time.process_time()
        source = AlignX(str(path), SIZES, rounds=2, signals=4, dimensions=dimensions)
        counts = prepare(source, Path(name) / "data", seed=0)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - on_cpu
    expected = sum(number % 100 < PASSING_OF_100 for number in range(rows))
    if counts["rows_passed"] != expected:
        raise AssertionError(f"{expected} rows planted, {counts['rows_passed']} passed")
    result = {
        "rows": rows,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "rows_per_second": round(rows / seconds),
        "seconds_at_a_million": round(seconds / rows * 1e6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "torch": "torch" in sys.modules,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

"""How fast, and in how much memory, files of ALIGNX's size become refined sets.

    python benchmarks/data.py

Rows are drawn in the shape of ALIGNX (8 comparisons, 2 to 4 posts, vectors of 90 numbers; 10 kB
each, written as `json.dumps` writes them). 3 % are planted to pass the rules; of these, every tenth
shares a signal with the one before, and every tenth a post but for one word. That as many pass as
were planted is checked. The last line is one JSON object:

    jsonl_rows_per_s_vs_plain  rows per second of the first pass (all cores; hashes and signatures
                               included) / of `json.loads` and a loop over the rules, 100,000 rows
    array_rows_per_s_vs_plain  the same with one JSON array, against `json.load` and the loop
    peak_mb_at_100k            largest resident memory of the whole refinement, all its processes
    peak_mb_at_1m              added up, near-duplicate search and writing included
    seconds_per_row_growth     seconds per row of the whole refinement, of 1,000,000 / 10,000 rows;
                               what a run of 1,000 rows takes is subtracted from both
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from alignxplore_trl.data.alignx import Dimension
from alignxplore_trl.data.refinement import Rules
from alignxplore_trl.data.row_files import CHUNK_BYTES, find_files

logger = logging.getLogger("benchmark")

DIMENSIONS = 90
MINIMUM, PAIRS, POSTS = 5, 8, 4
PASSING_SHARE = 0.03
POST_CHARACTERS, REPLY_CHARACTERS = 120, 160
SIZES = {"test": 3000, "test_posts": 3000, "validation": 500, "cold_start": 7000, "rl": 7000}
RULES = Rules(
    tuple(Dimension(f"d{number}", "is so", "is not so") for number in range(DIMENSIONS)),
    MINIMUM, "comparisons", PAIRS, 4, POSTS,
)  # fmt: skip


class Generator:
    """Rows of ALIGNX's shape; texts and vectors are put together from pools."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        letters = "abcdefghijklmnoprstuvwy"
        self.words = [
            "".join(self.draw.choices(letters, k=self.draw.randint(2, 9))) for _ in range(5000)
        ]
        self.replies = [self._text(REPLY_CHARACTERS) for _ in range(4000)]
        self.clauses = [self._text(POST_CHARACTERS // 3) for _ in range(4000)]
        self.vectors = [json.dumps(self._vector({})) for _ in range(2000)]
        self.families = [self._family() for _ in range(300)]

    def lines(self, count: int) -> Iterator[str]:
        """So many rows; row n is planted to pass where n falls into the passing share."""
        target, items = self.families[0]
        pair = post = ""
        for number in range(count):
            if not self.passes(number):
                yield self._row(number, self.vectors[number % 2000], self.vectors, 2, "")
                continue
            planted = number // 100 * int(100 * PASSING_SHARE) + number % 100
            if planted % 10 == 1:  # The signal of the one before, once more.
                yield self._row(number, target, items, POSTS, pair)
                continue
            target, items = self.draw.choice(self.families)
            post = f"{post} {number}" if planted % 10 == 2 else self._post()
            pair = self._pair(number, self.draw.choice(items), post)
            yield self._row(number, target, items, POSTS, pair)

    @staticmethod
    def passes(number: int) -> bool:
        return number % 100 < 100 * PASSING_SHARE

    def _row(self, number: int, target: str, vectors: list[str], posts: int, first: str) -> str:
        choose = self.draw.choice
        pairs = [
            self._pair(number, choose(vectors), self._post()) for _ in range(PAIRS - bool(first))
        ]
        comments = ", ".join(
            f'{{"prompt": "{self._post()}", "comment": '
            f'"{choose(self.replies)}", "Preference Direction": {choose(vectors)}}}'
            for _ in range(posts)
        )
        comparisons = ", ".join([first, *pairs] if first else pairs)
        return (
            f"{{{self._pair(number, target, self._post())[1:-1]}, "
            '"Demographic Information": "in their thirties", '
            f'"User-Generated Content": [{comments}], '
            f'"Pair-wise Comparative Feedback": [{comparisons}]}}'
        )

    def _post(self) -> str:
        return " ".join(self.draw.choices(self.clauses, k=3))

    def _pair(self, number: int, vector: str, post: str) -> str:
        choose = self.draw.choice
        return (
            f'{{"prompt": "{post}", "chosen": "{choose(self.replies)} \\"{number}\\"", '
            f'"rejected": "{choose(self.replies)}", '
            f'"Preference Direction": {vector}}}'
        )

    def _family(self) -> tuple[str, list[str]]:
        """A target's vector, and vectors that agree with it and with each other."""
        poles = {place: self.draw.choice((0, 1)) for place in range(DIMENSIONS)}
        target = dict(self.draw.sample(sorted(poles.items()), self.draw.randint(MINIMUM, 9)))
        others = [
            target | dict(self.draw.sample(sorted(poles.items()), 3)) for _ in range(PAIRS + POSTS)
        ]
        return json.dumps(self._vector(target)), [json.dumps(self._vector(one)) for one in others]

    def _vector(self, poles: dict[int, int]) -> list[float]:
        values = [0.5] * DIMENSIONS
        drawn = self.draw.sample(range(DIMENSIONS), self.draw.randint(1, 10))
        for place, pole in (poles or {place: self.draw.choice((0, 1)) for place in drawn}).items():
            values[place] = pole
        return values

    def _text(self, characters: int) -> str:
        text = self.draw.choice(self.words)
        while len(text) < characters:
            text += f" {self.draw.choice(self.words)}"
        return text


def write_lines(path: Path, count: int) -> None:
    with path.open("w") as stream:
        stream.writelines(f"{line}\n" for line in Generator(0).lines(count))


def write_array(path: Path, lines: Path) -> None:
    with lines.open() as source, path.open("w") as stream:
        for number, line in enumerate(source):
            stream.write(("[" if number == 0 else ", ") + line.rstrip("\n"))
        stream.write("]")


def plain(path: Path) -> int:
    """What one would write first: the standard library and a loop. How many rows pass."""
    with path.open() as stream:
        rows = json.load(stream) if path.suffix == ".json" else map(json.loads, stream)
        return sum(map(passes_plainly, rows))


def passes_plainly(row: dict[str, Any]) -> bool:
    target = row["Preference Direction"]
    active = [place for place in range(DIMENSIONS) if target[place] != 0.5]
    if len(active) < MINIMUM:
        return False
    held = list(target)
    kept = 0
    for item in row["Pair-wise Comparative Feedback"]:
        values = item["Preference Direction"]
        if any(values[place] != target[place] for place in active):
            continue
        if any(
            value != 0.5 and other != 0.5 and value != other
            for value, other in zip(values, held, strict=True)
        ):
            continue
        held = [other if value == 0.5 else value for value, other in zip(values, held, strict=True)]
        kept += 1
    return kept >= PAIRS


# What is measured is imported where it runs: its own processes import this file, too.
def first_pass(path: Path) -> None:
    from alignxplore_trl.data.refined_sets import judge_files

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        judge_files(find_files(str(path)), Path(folder), RULES, os.cpu_count() or 1, CHUNK_BYTES)


def whole(path: Path) -> dict[str, int]:
    from alignxplore_trl.data.refined_sets import Wanted, refine

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wanted = Wanted(SIZES, similarity=0.8, seed=0)
        return refine(
            str(path), Path(folder), RULES, wanted, workers=os.cpu_count() or 1, strict=True
        )


def measured(
    work: Callable[[Path], Any], path: Path, look_every: float | None = None
) -> tuple[Any, float, float]:
    """What the work returns, its seconds, and the largest memory in MB, in a process of its own.

    Memory is looked at so often, in seconds, or never: to look takes time from what is measured.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, path, sender))
    process.start()
    sender.close()  # So that the end of the process is the end of the pipe.
    peaks = [0.0]
    while not receiver.poll(look_every):
        peaks.append(_memory(psutil.Process(process.pid)))
    result, seconds = receiver.recv()
    process.join()
    return result, seconds, max(peaks)


def _send(work: Callable[[Path], Any], path: Path, sender: Connection) -> None:
    began = time.perf_counter()
    result = work(path)
    sender.send((result, time.perf_counter() - began))


def _memory(parent: psutil.Process) -> float:
    """The resident memory of a process and those it has started, added up, in MB."""
    try:
        family = [parent, *parent.children(recursive=True)]
        return float(sum(each.memory_info().rss for each in family) / 1e6)
    except psutil.NoSuchProcess:  # A worker came to its end in between.
        return 0.0


def ratio_to_plain(path: Path, count: int) -> float:
    """Rows per second, ours / plain; each the best of alternating runs, as machines are busy."""
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in ("ours", "plain") * 2 + ("ours",):
        passing, taken, _ = measured(plain if turn == "plain" else first_pass, path)
        assert passing in (None, planted(count)), (passing, planted(count))
        seconds[turn].append(taken)
    rates = {turn: [round(count / taken) for taken in runs] for turn, runs in seconds.items()}
    logger.info("%s: rows per second %s", path.name, rates)
    return min(seconds["plain"]) / min(seconds["ours"])


def planted(count: int) -> int:
    return sum(map(Generator.passes, range(count)))


def refined(folder: Path, count: int) -> tuple[float, float]:
    """Seconds and peak memory of the whole refinement of so many rows."""
    path = folder / f"rows{count}.jsonl"
    if not path.is_file():
        write_lines(path, count)
    counts, seconds, peak = measured(whole, path, look_every=0.1)
    assert counts["rows_passed"] == planted(count), counts
    logger.info("%d rows, %.1f GB: %.1f s, %.0f MB, %s", count, path.stat().st_size / 1e9, seconds,
                peak, counts)  # fmt: skip
    return seconds, peak


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, _ = refined(folder, 1_000)
        small = statistics.median(refined(folder, 10_000)[0] for _ in range(3))
        _, peak_100k = refined(folder, 100_000)
        lines, array = folder / "rows100000.jsonl", folder / "rows100000.json"
        jsonl_ratio = ratio_to_plain(lines, 100_000)
        write_array(array, lines)
        array_ratio = ratio_to_plain(array, 100_000)
        array.unlink()
        lines.unlink()
        large, peak_1m = refined(folder, 1_000_000)
    result = {
        "jsonl_rows_per_s_vs_plain": jsonl_ratio,
        "array_rows_per_s_vs_plain": array_ratio,
        "peak_mb_at_100k": peak_100k,
        "peak_mb_at_1m": peak_1m,
        "seconds_per_row_growth": (large - start) / 999_000 / ((small - start) / 9_000),
    }
    sys.stdout.write(json.dumps({key: float(f"{own:.3g}") for key, own in result.items()}) + "\n")


if __name__ == "__main__":
    main()

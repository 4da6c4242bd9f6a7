"""What models answered, kept on disk as it arrives, so that a killed run asks nobody twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from alignxplore_trl.inference.writers import Ask, Writer, Written
from alignxplore_trl.run.errors import UserError


class Kept:
    """A file of answers: each line is one JSON object of those that arrived together.

    They are kept together or not at all, whenever the process is killed. An answer is found by what
    it is a function of within one configuration; a stage's folder refuses any other.

    Args:
        path: the file; what is in it is read.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._answers: dict[str, Any] = {}
        self._file = path.open("a+b")
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            # The last line may be half of one: the process was killed while it wrote.
            if line.endswith(b"\n"):
                end += len(line)
                try:
                    self._answers |= msgspec.json.decode(line, type=dict[str, Any])
                except msgspec.MsgspecError as error:
                    raise UserError(
                        f"{path}, line {number}: damaged ({error}); delete this line, and what "
                        "stood in it is asked for again"
                    ) from error
        self._file.truncate(end)

    def find(self, key: str) -> Any:
        """An answer; `None` where there is none yet."""
        return self._answers.get(key)

    def keep(self, answers: Mapping[str, Any]) -> None:
        """Keep answers that have arrived."""
        self._answers |= answers
        self._file.write(msgspec.json.encode(answers) + b"\n")
        self._file.flush()


def answers_to(writer: Writer, asks: Sequence[Ask], seed: int, kept: Kept) -> list[Written | None]:
    """What a writer answers to each ask, of which it is asked those that aren't kept, once each.

    Equal asks have one answer. No answer is not kept: the same command asks again.
    """
    keys = {ask: key_of("written", *ask) for ask in asks}
    missing = [ask for ask, key in keys.items() if kept.find(key) is None]

    def arrived(found: Sequence[tuple[int, Written]]) -> None:
        kept.keep({keys[missing[place]]: asdict(own) for place, own in found})

    if missing:
        writer.load()
        writer.write_each(missing, seed, arrived)
    rows = [kept.find(keys[ask]) for ask in asks]
    return [None if row is None else Written(**row) for row in rows]


def key_of(*parts: object) -> str:
    """A short name of these."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]

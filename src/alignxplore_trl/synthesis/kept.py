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

    They are kept together or not at all, whenever the process is killed. It is for answers within
    one configuration, as a stage's folder is. Raises UserError where the file is damaged.
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
                    where = f"{path}, line {number}"
                    raise UserError(f"{where}: damaged ({error}); delete the line") from error
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
    """Answers to asks, equal ones once: what is kept, and what a writer answers to the others.

    Where there is no answer nothing is kept, and the same command asks again.
    """
    keys = {ask: key_of("written", *ask) for ask in asks}
    missing = [ask for ask, key in keys.items() if kept.find(key) is None]

    def arrived(found: Mapping[int, Written]) -> None:
        kept.keep({keys[missing[place]]: asdict(own) for place, own in found.items()})

    if missing:
        writer.load()
        writer.write_each(missing, seed, arrived)
    rows = [kept.find(keys[ask]) for ask in asks]
    return [None if row is None else Written(**row) for row in rows]


def key_of(*parts: object) -> str:
    """A short name of these."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]

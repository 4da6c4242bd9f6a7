"""Log-probabilities of responses without a description, kept on disk: no rollout changes them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from alignxplore_trl.judging.generator import Continuation, Generator
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.run.database import PATIENCE, told_in_words
from alignxplore_trl.text.rendering import PromptSet

LogProbabilities = tuple[float, ...]

_TABLE = "CREATE TABLE IF NOT EXISTS log_probabilities (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
# What another model, or the same model read otherwise, differs in.
_FILES_OF_A_MODEL = ("*.safetensors", "*.bin", "config.json", "tokenizer*", "*.model")


class CachedGenerator:
    """Asks a generator about a response without a description only the first time.

    Rows with a description go to the generator each time: every rollout has another one. The file
    is an SQLite database that several processes, and later runs, may use at once. An entry is found
    by a hash of the generator's identity, the rendered prompt (template and post) and the response.

    Args:
        generator: local or on a server.
        prompts: those of the generator.
        path: the database; made with its folder if there is none.
        identity: what tells this generator from others, see `identity_of`.

    Raises:
        UserError: the file is not such a database, or is damaged.
    """

    def __init__(
        self, generator: Generator, prompts: PromptSet, path: str | Path, *, identity: str
    ) -> None:
        self.generator = generator
        self.prompts = prompts
        self.path = Path(path)
        self.identity = identity
        self._measurements = Measurements()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            database.execute(_TABLE)

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[LogProbabilities | None]:
        """log p of each of the response's own tokens, in nats; `None` is not kept."""
        keys = {row: self._key(row) for row in rows if row.description is None}
        known = self._look_up(keys)
        asked = [row for row in rows if row not in known]
        answers = self.generator.log_probabilities(asked)
        answered = {
            row: answer
            for row, answer in zip(asked, answers, strict=True)
            if row in keys and answer is not None
        }
        self._keep({keys[row]: answer for row, answer in answered.items()})
        hits = len(rows) - len(asked)
        lookups = sum(row in keys for row in rows)
        self._measurements += Measurements(questions=hits, lookups=lookups, hits=hits)
        rest = iter(answers)
        return [known[row] if row in known else next(rest) for row in rows]

    def take_measurements(self) -> Measurements:
        """What happened since this was last called, in the generator too; starts to count anew."""
        taken, self._measurements = self._measurements, Measurements()
        return taken + self.generator.take_measurements()

    def _key(self, row: Continuation) -> bytes:
        parts = [self.identity, self.prompts.reply(row.post, row.description), row.response]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def _look_up(self, keys: Mapping[Continuation, bytes]) -> dict[Continuation, LogProbabilities]:
        if not keys:
            return {}
        query = "SELECT value FROM log_probabilities WHERE key = ?"
        with self._database() as database:
            found = {row: database.execute(query, (key,)).fetchone() for row, key in keys.items()}
            return {row: _unpack(entry[0]) for row, entry in found.items() if entry}

    def _keep(self, answers: Mapping[bytes, LogProbabilities]) -> None:
        if not answers:
            return
        entries = [(key, np.array(answer, "<f8").tobytes()) for key, answer in answers.items()]
        with self._database() as database:
            database.executemany("INSERT OR IGNORE INTO log_probabilities VALUES (?, ?)", entries)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: none is carried into another process."""
        with (
            told_in_words(self.path, "the cache of log-probabilities"),
            closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database,
            database,
        ):
            yield database


def identity_of(source: str | Path, *, dtype: str, revision: str | None = None) -> str:
    """What tells a generator from others: its files' content, or its name and revision on the Hub.

    Hashing the files of a local folder takes about a second per gigabyte.
    """
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{revision or 'main'} {dtype}"
    digest = hashlib.sha256()
    for file in sorted({file for glob in _FILES_OF_A_MODEL for file in folder.glob(glob)}):
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return f"{digest.hexdigest()} {dtype}"


def _unpack(value: bytes) -> LogProbabilities:
    """An entry's values; ValueError if it can't be one."""
    values = np.frombuffer(value, "<f8")
    if not (np.isfinite(values).all() and (values <= 1e-6).all()):
        raise ValueError("an entry holds numbers that are no log-probabilities")
    return tuple(values.tolist())

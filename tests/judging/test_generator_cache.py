"""What is kept on disk is what the generator said; damage and other models are never mixed up."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.generator_cache import CachedGenerator, identity_of
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import PromptSet

PROMPTS = PromptSet("compact")
ALONE = [Continuation("post", None, f"response {number}") for number in range(3)]
DESCRIBED = [Continuation("post", "d", "response 0"), Continuation("post", "", "response 0")]


@dataclass
class LengthGenerator:
    """Says minus the length of each text, and notes what it was asked."""

    factor: float = 1.0
    asked: list[Continuation] = field(default_factory=list)

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        self.asked += rows
        return [
            None
            if row.response == "silence"
            else (-self.factor * len(row.response), -self.factor * len(row.description or "") / 3)
            for row in rows
        ]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=len(self.asked), requests=1)


def cached(path: Path, identity: str = "model", factor: float = 1.0) -> CachedGenerator:
    return CachedGenerator(LengthGenerator(factor), PROMPTS, path, identity=identity)


def test_rows_without_a_description_are_asked_once_over_runs(tmp_path: Path) -> None:
    first = cached(tmp_path / "new" / "cache.sqlite")
    rows = [ALONE[0], DESCRIBED[0], ALONE[1], DESCRIBED[1]]
    answers = first.log_probabilities(rows)
    assert answers == LengthGenerator().log_probabilities(rows)
    second = cached(first.path)
    mixed = [DESCRIBED[0], ALONE[1], ALONE[2], ALONE[0]]
    assert second.log_probabilities(mixed) == LengthGenerator().log_probabilities(mixed)
    assert second.generator.asked == [DESCRIBED[0], ALONE[2]]
    measured = second.take_measurements()
    assert (measured.questions, measured.lookups, measured.hits) == (4, 3, 2)
    assert measured.requests == 1


def test_another_model_or_template_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cached(path).log_probabilities(ALONE)
    other = cached(path, identity="other", factor=2.0)
    assert other.log_probabilities(ALONE) == LengthGenerator(2.0).log_probabilities(ALONE)
    assert other.generator.asked == ALONE
    generator = LengthGenerator()
    CachedGenerator(generator, PromptSet("default"), path, identity="model").log_probabilities(
        ALONE
    )
    assert generator.asked == ALONE


def test_what_is_not_answered_is_asked_again(tmp_path: Path) -> None:
    silent = Continuation("post", None, "silence")
    generator = cached(tmp_path / "cache.sqlite")
    assert generator.log_probabilities([silent]) == [None]
    assert generator.log_probabilities([silent]) == [None]
    assert generator.generator.asked == [silent, silent]


def test_a_damaged_file_is_named_and_nothing_is_read_from_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_text("no database at all, but long enough to be taken for one " * 20)
    with pytest.raises(UserError, match=r"cache\.sqlite: damaged.*delete it"):
        cached(path)


@pytest.mark.parametrize("value", [b"123", b"\xff" * 8, b"\x00" * 6 + b"\xf0\x3f"])
def test_a_damaged_entry_is_an_error_not_a_number(tmp_path: Path, value: bytes) -> None:
    generator = cached(tmp_path / "cache.sqlite")
    generator.log_probabilities(ALONE)
    with sqlite3.connect(generator.path) as database:
        database.execute("UPDATE log_probabilities SET value = ?", (value,))
    with pytest.raises(UserError, match="damaged"):
        generator.log_probabilities(ALONE)


def _write(path: Path, number: int) -> None:
    generator = cached(path)
    for step in range(20):
        rows = [Continuation("post", None, f"{(step + own) % 30}") for own in range(5)]
        assert generator.log_probabilities(rows) == LengthGenerator().log_probabilities(rows)


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    later = cached(path)
    later.log_probabilities([Continuation("post", None, str(number)) for number in range(24)])
    assert later.generator.asked == []


def test_identity_changes_with_content_revision_and_precision(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = identity_of(tmp_path, dtype="float32")
    assert identity_of(tmp_path, dtype="float32") == before
    assert identity_of(tmp_path, dtype="bfloat16") != before
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert identity_of(tmp_path, dtype="float32") != before
    names = {identity_of("org/name", dtype="float32", revision=own) for own in (None, "a", "b")}
    assert len(names) == 3

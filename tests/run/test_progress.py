"""Progress yields what it is given, and speaks from one process only."""

from __future__ import annotations

import pytest

from alignxplore_trl.run import progress as module
from alignxplore_trl.run.progress import progress, say


def test_items_come_through_and_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("reading: 3/3, ")


def test_lines_come_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    list(progress(range(2), "reading", 2))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "reading: 0/2",
        "reading: 1/2",
        "reading: 2/2",
    ]


def test_other_processes_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(2), "reading", 2)) == [0, 1]
    say("hello")
    assert capsys.readouterr().err == ""

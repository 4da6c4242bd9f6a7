"""Progress yields what it is given, and speaks from one process only."""

from __future__ import annotations

import re
import time

import pytest

from alignxplore_trl.run import progress as module
from alignxplore_trl.run.progress import Bar, progress, say


def test_items_come_through_and_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("reading: 3/3, ")


def test_lines_come_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    list(progress(range(2), "reading", 2))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "reading: 1/2",
        "reading: 2/2",
    ]


def test_details_rate_and_time_left_stand_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with Bar("asking", 30) as bar:
        time.sleep(0.2)
        bar.advance(10, "cost 2.5")
    line = capsys.readouterr().err.splitlines()[0]
    told = re.fullmatch(r"asking: 10/30, 0 s, (\S+)/s, (\d+) s left, cost 2.5", line)
    assert told is not None
    assert 0 < float(told[1]) <= 50
    assert int(told[2]) >= 0


def test_a_bar_on_a_terminal_shows_the_details(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shows_bars", lambda: True)
    with Bar("asking", 2) as bar:
        bar.advance(2, "cost 2.5")
    assert "cost 2.5" in capsys.readouterr().err


def test_other_processes_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(2), "reading", 2)) == [0, 1]
    say("hello")
    assert capsys.readouterr().err == ""

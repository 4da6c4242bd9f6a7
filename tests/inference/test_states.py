"""The states of users: nothing is read twice, nothing is lost, and what is forgotten is gone."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignxplore_trl.cases import Attributes, Comparison
from alignxplore_trl.inference.describer import Description, NotDescribedError
from alignxplore_trl.inference.states import UserStates, catch_up
from alignxplore_trl.run.errors import UserError
from tests.inference.scripted import describer, said, signals

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def states(tmp_path: Path) -> Iterator[UserStates]:
    with UserStates(tmp_path / "new" / "users.sqlite") as opened:
        yield opened


def content(text: str = "likes it short") -> Description:
    return Description(text, "because", "a model")


def test_signals_are_pending_until_a_version_has_read_them(states: UserStates) -> None:
    assert states.add("ann", signals(3)) == 3
    pending = states.pending("ann", 2)
    assert list(pending.values()) == [own for _, own in signals(2)]
    assert states.commit("ann", list(pending), content()) == 1
    assert states.versions("ann") == [content()]
    assert states.pending("ann") == {3: signals(1, start=2)[0][1]}
    assert states.pending("bob") == {}
    assert states.users() == ["ann"]


def test_a_known_signal_is_left(states: UserStates) -> None:
    same = Comparison("a post", "yes", "no")
    assert states.add("ann", [("1", same), ("2", same), ("1", same), ("", same), ("", same)]) == 3
    assert states.add("ann", [("1", same), ("1", same.reversed())]) == 1


def test_what_another_process_has_read_is_not_read_again(states: UserStates) -> None:
    states.add("ann", signals(4))
    pending = list(states.pending("ann", 4))
    with UserStates(states.path) as other:
        assert other.commit("ann", pending[:1], content()) == 1
    assert states.commit("ann", pending, content("late")) == 0
    assert [own.description for own in states.versions("ann")] == ["likes it short"]
    assert len(states.pending("ann")) == 3, "of what is refused nothing is marked"


def test_users_catch_up_round_by_round_and_all_together(states: UserStates) -> None:
    states.add("ann", signals(5))
    states.add("bob", signals(2, start=7))
    own = describer()
    found = [
        f"{user} {number}: {outcome.description}"
        for user, number, outcome in catch_up(states, own, states.users(), 2)
        if isinstance(outcome, Description)
    ]
    later = ["ann 2: read 0 1 2 3", "ann 3: read 0 1 2 3 4"]
    assert found == ["ann 1: read 0 1", "bob 1: read 7 8", *later]
    assert own.writer.calls == [2, 1, 1]
    assert list(catch_up(states, own, states.users(), 2)) == []


def test_signals_that_are_not_described_stay_pending(states: UserStates) -> None:
    states.add("ann", signals(2))
    states.add("bob", signals(2, start=7))
    faulty = describer(lambda prompt: None if "nice 0" in prompt else said(prompt))
    outcomes = {user: outcome for user, _, outcome in catch_up(states, faulty, ["ann", "bob"], 4)}
    assert isinstance(outcomes["ann"], NotDescribedError)
    assert isinstance(outcomes["bob"], Description)
    assert len(states.pending("ann")) == 2
    assert [user for user, *_ in catch_up(states, describer(), ["ann", "bob"], 4)] == ["ann"]


def read_all(path: Path, killed_at: int | None) -> None:
    """What a process does that reads all users; killed in the middle of a call to the model."""
    calls = itertools.count(1)

    def write(prompt: str) -> str:
        if next(calls) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return said(prompt)

    with UserStates(path) as states:
        for _ in catch_up(states, describer(write), states.users(), 2):
            pass


def test_kills_and_other_processes_lose_nothing_and_read_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    with UserStates(path) as states:  # No process inherits an open file.
        for number in range(6):
            states.add(f"user {number}", signals(9))
    for at, ends in (((4,), -signal.SIGKILL), ((9,), -signal.SIGKILL), ((None, None), 0)):
        together = [FORK.Process(target=read_all, args=(path, each)) for each in at]
        for process in together:
            process.start()
        for process in together:
            process.join()
            assert process.exitcode == ends
    with UserStates(path) as states:
        for user in states.users():
            versions = states.versions(user)
            assert len(versions) == 5
            assert versions[-1].description == "read 0 1 2 3 4 5 6 7 8", user
            assert states.pending(user) == {}


def test_all_that_is_kept_is_exported_and_forgotten(states: UserStates) -> None:
    secret = "a secret that no file may keep"
    states.add("ann", [("", Attributes(secret)), *signals(1)])
    states.add("bob", signals(1))
    states.commit("ann", list(states.pending("ann", 1)), content(f"has {secret}"))
    exported = states.export("ann")
    read = {own["kind"]: own["version"] for own in exported["signals"]}
    assert read == {"attributes": 1, "comparison": None}
    assert exported["versions"][0]["content"]["description"] == f"has {secret}"
    states.forget("ann")
    assert states.users() == ["bob"]
    for file in states.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes(), file
    for act in (states.forget, states.export):
        with pytest.raises(UserError, match="no user 'ann'"):
            act("ann")

"""The states of users: nothing is read twice, nothing is lost, and what is forgotten is gone."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.inference.descriptions import WrittenDescription
from alignxplore_trl.inference.user_states import StaleBaseError, UserStates, Version
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post, Signal


def signals(count: int, start: int = 0) -> list[Signal]:
    return [Comparison(f"post {i}", f"chosen {i}", f"rejected {i}")
            for i in range(start, start + count)]  # fmt: skip


def content(description: str = "likes it short") -> WrittenDescription:
    return WrittenDescription(description, "because", "a model", 50, 12)


@pytest.fixture
def states(tmp_path: Path) -> Iterator[UserStates]:
    with UserStates(tmp_path / "new" / "users.sqlite") as opened:
        yield opened


def read_next(states: UserStates, user: str, count: int, description: str = "short") -> Version:
    return states.commit(
        user, states.current(user), states.pending(user, count), content(description)
    )


def test_signals_are_pending_until_a_version_has_read_them(states: UserStates) -> None:
    assert states.add("ann", signals(6)) == 6
    assert [each.signal for each in states.pending("ann")] == signals(6)
    assert states.current("ann") is None
    first = read_next(states, "ann", 4)
    assert (first.number, first.base, first.signals) == (1, None, 4)
    assert states.current("ann") == first
    assert [each.signal for each in states.pending("ann")] == signals(2, start=4)
    second = read_next(states, "ann", 4, "long")
    assert (second.number, second.base, second.signals) == (2, 1, 2)
    assert states.pending("ann") == []
    assert states.history("ann") == [first, second]
    assert states.signals_of("ann", 1) == signals(4)
    assert states.signals_of("ann", 2) == signals(2, start=4)


def test_users_are_apart(states: UserStates) -> None:
    states.add("ann", signals(2))
    states.add("bob", signals(3))
    read_next(states, "ann", 2)
    assert states.current("bob") is None
    assert len(states.pending("bob")) == 3
    assert states.users() == ["ann", "bob"]


def test_a_known_signal_is_left(states: UserStates) -> None:
    states.add("ann", signals(3))
    read_next(states, "ann", 3)
    assert states.add("ann", [*signals(3), *signals(1, start=3), *signals(1, start=3)]) == 1
    assert [each.signal for each in states.pending("ann")] == signals(1, start=3)


def test_an_id_tells_signals_of_the_same_content_apart(states: UserStates) -> None:
    same = [Post("a post", "nice"), Post("a post", "nice")]
    assert states.add("ann", same, ["1", "2"]) == 2
    assert states.add("ann", same, ["2", None]) == 1
    with pytest.raises(UserError, match="another signal was put down under the id '1'"):
        states.add("ann", [Post("a post", "bad"), Post("b", "c")], ["1", "3"])
    assert len(states.pending("ann")) == 3, "of a call that is refused nothing is kept"


def test_what_changed_in_between_is_not_overwritten(states: UserStates, tmp_path: Path) -> None:
    states.add("ann", signals(4))
    base, pending = states.current("ann"), states.pending("ann", 2)
    with UserStates(states.path) as other:
        read_next(other, "ann", 2)
    with pytest.raises(StaleBaseError):
        states.commit("ann", base, pending, content("late"))
    with pytest.raises(StaleBaseError):  # The base is right, but its signals have been read.
        states.commit("ann", states.current("ann"), pending, content("late"))
    assert [each.description for each in states.history("ann")] == ["short"]
    assert len(states.pending("ann")) == 2


def test_undo_goes_back_version_by_version(states: UserStates) -> None:
    states.add("ann", signals(6))
    for description in ("one", "two", "three"):
        read_next(states, "ann", 2, description)
    back = states.undo("ann")
    assert back is not None
    assert (back.description, back.undone) == ("two", None)
    assert states.pending("ann") == [], "what an undone version has read stays read"
    back = states.undo("ann", read_again=True)
    assert back is not None
    assert back.description == "one"
    assert [each.signal for each in states.pending("ann")] == signals(2, start=2)
    again = read_next(states, "ann", 4, "other")
    assert (again.number, again.base) == (4, 1)
    assert [(each.number, each.undone is None) for each in states.history("ann")] == [
        (1, True), (2, False), (3, False), (4, True),
    ]  # fmt: skip
    states.undo("ann")
    assert states.undo("ann") is None
    with pytest.raises(UserError, match="ann has no description that could be undone"):
        states.undo("ann")


def test_all_that_is_kept_is_exported_and_forgotten(states: UserStates) -> None:
    secret = "a secret that no file may keep"
    states.add("ann", [Attributes(secret), *signals(1)])
    states.add("bob", signals(1))
    read_next(states, "ann", 1, f"has {secret}")
    exported = states.export("ann")
    assert exported["user"] == "ann"
    assert [each["version"] for each in exported["signals"]] == [1, None]
    assert exported["signals"][0]["text"] == secret
    [version] = exported["versions"]
    assert version["description"] == f"has {secret}"
    assert version["model"] == "a model"

    states.forget("ann")
    assert states.users() == ["bob"]
    for file in states.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes(), file
    for act in (states.forget, states.export):
        with pytest.raises(UserError, match="found no user 'ann'"):
            act("ann")


def test_a_damaged_file_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="put a copy of the file back, or name another one"):
        UserStates(path)
    assert path.read_bytes().startswith(b"no database")


def test_a_transaction_that_fails_leaves_nothing(
    states: UserStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    states.add("ann", signals(3))
    pending = states.pending("ann")
    bad = [pending[0], pending[1].__class__(999, pending[1].signal)]
    with pytest.raises(StaleBaseError):
        states.commit("ann", None, bad, content())
    assert states.history("ann") == []
    assert len(states.pending("ann")) == 3


def _write_many(path: Path, worker: int, count: int) -> None:
    with UserStates(path) as states:
        states.add("shared", signals(count, start=worker * count))
        while pending := states.pending("shared", 3):
            try:
                states.commit("shared", states.current("shared"), pending, content(f"by {worker}"))
            except StaleBaseError:
                continue


def test_concurrent_writers_read_each_signal_once(tmp_path: Path) -> None:
    path, workers, count = tmp_path / "users.sqlite", 4, 15
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_write_many, args=(path, worker, count)) for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with UserStates(path) as states:
        history = states.history("shared")
        assert states.pending("shared") == []
        assert sum(version.signals for version in history) == workers * count
        assert [version.number for version in history] == list(range(1, len(history) + 1))
        assert [version.base for version in history] == [None, *range(1, len(history))]
        read = [signal for version in history
                for signal in states.signals_of("shared", version.number)]  # fmt: skip
    assert sorted(map(str, read)) == sorted(map(str, signals(workers * count)))


texts = st.text(st.characters(codec="utf-8"), max_size=30)
any_signal = st.one_of(
    st.builds(Comparison, texts, texts, texts, st.sampled_from(["replies", "items"])),
    st.builds(Post, texts, texts),
    st.builds(Attributes, texts),
)


@given(st.lists(any_signal, max_size=8, unique=True), texts, texts)
def test_any_text_comes_back_as_it_was(found: list[Signal], user: str, description: str) -> None:
    with UserStates(Path(":memory:")) as states:
        states.add(user, found)
        assert [each.signal for each in states.pending(user)] == found
        version = states.commit(user, None, states.pending(user), content(description))
        assert states.current(user) == version
        assert version.description == description


def test_a_power_cut_loses_nothing_that_was_committed(states: UserStates) -> None:
    database: sqlite3.Connection = states._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA secure_delete").fetchone() == (1,)

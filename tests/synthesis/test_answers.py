"""What was kept is found again by exactly what it depends on, and by nothing less."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes
from alignxplore_trl.synthesis.answers import TeacherAnswers, Verified, _key
from alignxplore_trl.synthesis.teachers import Ask, identity
from alignxplore_trl.text.rendering import PromptSet
from tests.synthesis.teaching import SAMPLING, ask, written

TEXTS = st.text(alphabet=st.sampled_from('a"/,\\\0ü]'), max_size=3)
ASKS = st.builds(
    Ask,
    TEXTS,
    st.integers(0, 11),
    st.integers(0, 11),
    TEXTS,
    st.sampled_from(["candidate", "dimensions"]),
)
WRITTEN = st.builds(
    Written,
    st.text(),
    st.none() | st.text(),
    st.none() | st.text(),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[TeacherAnswers]:
    answers = TeacherAnswers(tmp_path / "new" / "answers.sqlite")
    yield answers
    answers.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TeacherAnswers:
    return TeacherAnswers(tmp_path_factory.mktemp("shared") / "answers.sqlite")


@given(own=WRITTEN, other=WRITTEN, asked=ASKS)
def test_what_was_kept_is_found_as_it_was_kept_first(
    shared: TeacherAnswers, own: Written, other: Written, asked: Ask
) -> None:
    model = str(uuid4())
    assert shared.find(model, [asked]) == {}
    shared.keep(model, [(asked, own)])
    shared.keep(model, [(asked, other)])
    assert shared.find(model, [asked]) == {asked: own}


def test_it_is_found_after_reopening_and_by_another_connection(answers: TeacherAnswers) -> None:
    own = [(ask(number), written(f"text {number}")) for number in range(1200)]
    answers.keep("model", own)
    beside = TeacherAnswers(answers.path)
    asks = [ask(number) for number in range(1300)]
    assert beside.find("model", asks) == dict(own)
    beside.keep("model", [(ask(1250), written())])
    assert len(answers.find("model", asks)) == 1201
    beside.close()
    answers.close()
    again = TeacherAnswers(answers.path)
    assert len(again.find("model", asks)) == 1201
    again.close()


@given(st.tuples(TEXTS, ASKS), st.tuples(TEXTS, ASKS))
def test_two_asks_have_one_key_only_if_they_are_equal(
    one: tuple[str, Ask], other: tuple[str, Ask]
) -> None:
    assert (_key(*one) == _key(*other)) == (one == other)


@pytest.mark.parametrize(
    "changes",
    [{"case_id": "b"}, {"round": 2}, {"number": 1}, {"prompt": "b"}, {"kind": "dimensions"}],
)
def test_another_ask_is_not_found(answers: TeacherAnswers, changes: dict[str, Any]) -> None:
    answers.keep("model", [(ask(), written())])
    assert answers.find("model", [ask(**changes)]) == {}


def test_the_model_its_sampling_and_how_it_is_asked_tell_teachers_apart(
    answers: TeacherAnswers,
) -> None:
    others = [
        identity("model b", SAMPLING, chat=False, seed=0),
        identity("model", replace(SAMPLING, temperature=1.0), chat=False, seed=0),
        identity("model", replace(SAMPLING, top_p=1.0), chat=False, seed=0),
        identity("model", replace(SAMPLING, top_k=None), chat=False, seed=0),
        identity("model", replace(SAMPLING, max_new_tokens=9), chat=False, seed=0),
        identity("model", SAMPLING, chat=True, seed=0),
        identity("model", SAMPLING, chat=False, seed=1),
        identity("model", SAMPLING, chat=False, seed=0, body={"a": 1}),
    ]
    usual = identity("model", SAMPLING, chat=False, seed=0)
    answers.keep(usual, [(ask(), written())])
    assert not any(answers.find(other, [ask()]) for other in others)
    assert len(set(others)) == len(others)
    assert answers.find(identity("model", replace(SAMPLING), seed=0, chat=False), [ask()])


def test_other_signals_and_another_template_miss(answers: TeacherAnswers) -> None:
    prompts = [
        folder.teacher([Attributes(text)], earlier, names)
        for folder in map(PromptSet, ("compact", "default"))
        for text in ("a", "b")
        for earlier in (None, "d")
        for names in ([], ["tone"])
    ]
    answers.keep("model", [(ask(prompt=prompts[0]), written())])
    found = answers.find("model", [ask(prompt=prompt) for prompt in prompts])
    assert [own.prompt for own in found] == prompts[:1]
    assert len(set(prompts)) == len(prompts)


def keep_many(path: Path, start: int) -> None:
    answers = TeacherAnswers(path)
    for number in range(start, start + 200):
        answers.keep("model", [(ask(number), written(str(number)))])
        answers.keep_verdicts({f"{number}": Verified(number, 1.0)})
    answers.close()


def test_two_processes_that_write_lose_nothing(answers: TeacherAnswers) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=keep_many, args=(answers.path, start)) for start in (0, 100)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = answers.find("model", map(ask, range(400)))
    assert {own.number: wrote.text for own, wrote in found.items()} == {
        number: str(number) for number in range(300)
    }
    assert len(answers.find_verdicts(map(str, range(400)))) == 300


def open_together(folder: Path, barrier: Barrier) -> None:
    for number in range(150):
        barrier.wait()
        TeacherAnswers(folder / f"{number}.sqlite").close()


def test_processes_that_make_the_same_file_wait_for_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4, timeout=30)
    processes = [context.Process(target=open_together, args=(tmp_path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_verdicts_are_found_by_what_was_asked(answers: TeacherAnswers) -> None:
    answers.keep_verdicts({"a": Verified(0.7, 1.0), "ü": Verified(-0.25, 0.0)})
    answers.keep_verdicts({"a": Verified(0.1, 0.0)})
    answers.keep_verdicts({})
    assert answers.find_verdicts(["ü", "a", "b"]) == {
        "a": Verified(0.7, 1.0),
        "ü": Verified(-0.25, 0.0),
    }


@pytest.mark.parametrize("content", [b"not a database " * 100, b"SQLite format 3\0" + b"x" * 4000])
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.sqlite: damaged, or not the cache of what"):
        TeacherAnswers(path)


def test_a_database_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE written (name TEXT)")
    other.close()
    answers = TeacherAnswers(path)
    with pytest.raises(UserError, match=r"answers\.sqlite"):
        answers.find("model", [ask()])
    with pytest.raises(UserError, match=r"answers\.sqlite"):
        answers.keep("model", [(ask(), written())])
    answers.keep_verdicts({"a": Verified(0.5, 1.0)})
    answers.close()


def test_damage_is_named(answers: TeacherAnswers) -> None:
    answers.keep("model", [(ask(n), written("text " * 200)) for n in range(200)])
    answers.close()
    content = bytearray(answers.path.read_bytes())
    content[4096:-4096] = b"\xff" * (len(content) - 8192)
    answers.path.write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.sqlite: damaged"):
        TeacherAnswers(answers.path).find("model", map(ask, range(200)))

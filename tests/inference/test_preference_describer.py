"""Descriptions of users, one at a time, many at once, and kept up to date."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alignxplore_trl.inference.describing import Completion
from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
    NotDescribedError,
    WrittenDescription,
)
from alignxplore_trl.inference.keeping_up import catch_up
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.inference.user_states import UserStates
from alignxplore_trl.signals import Post, Signal
from alignxplore_trl.text.parsing import (
    FormatProblem,
    Inference,
    format_completion,
    parse_completion,
)

Answer = Callable[[str, int], str | None]


class ScriptedWriter:
    """Answers by a function of prompt and seed; counts a token for each word."""

    max_prompt_tokens = 40

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []

    def prompt(self, signals: Sequence[Signal], earlier: str | None) -> str:
        texts = [each.comment for each in signals if isinstance(each, Post)]
        return f"{earlier or 'nobody'} | {' , '.join(texts)}"

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion | None]:
        self.batches.append(list(prompts))
        texts = [self.answer(prompt, seed) for prompt in prompts]
        return [None if text is None else Completion(text, len(text.split()), True)
                for text in texts]  # fmt: skip

    def read(self, completion: str) -> Inference | FormatProblem:
        return parse_completion(completion)


def remembering(prompt: str, seed: int) -> str:
    """What was known, and the new texts."""
    return format_completion(Inference("it says so", prompt.replace(" | ", " + ")))


def posts(*texts: str) -> tuple[Post, ...]:
    return tuple(Post("a post", text) for text in texts)


def describer_of(answer: Answer = remembering, attempts: int = 3) -> PreferenceDescriber:
    return PreferenceDescriber(ScriptedWriter(answer), "scripted", attempts=attempts, seed=7)


def test_a_user_is_described_and_updated() -> None:
    describer = describer_of()
    first = describer.describe(posts("a", "b"))
    assert first == WrittenDescription("nobody + a , b", "it says so", "scripted", 5, 11)
    second = describer.update(first.description, posts("c"))
    assert second.description == "nobody + a , b + c"


def test_a_malformed_completion_is_sampled_again_and_counted() -> None:
    def at_last(prompt: str, seed: int) -> str:
        return remembering(prompt, seed) if "good" in prompt or seed == 9 else "no tags at all"

    describer = describer_of(at_last)
    requests = [DescriptionRequest(posts("good")), DescriptionRequest(posts("bad"))]
    quick, slow = describer.write(requests)
    assert isinstance(quick, WrittenDescription)
    assert isinstance(slow, WrittenDescription)
    assert (quick.attempts, slow.attempts) == (1, 3)
    assert slow.completion_tokens == 4 + 4 + 9
    assert describer.malformed == {FormatProblem.THINK_NOT_CLOSED: 2}
    assert isinstance(describer.writer, ScriptedWriter)
    assert [len(batch) for batch in describer.writer.batches] == [2, 1, 1]


def test_what_stays_malformed_is_told() -> None:
    describer = describer_of(lambda prompt, seed: "no tags", attempts=2)
    with pytest.raises(NotDescribedError, match="none of 2 completions was well-formed"):
        describer.describe(posts("a"))
    assert describer.malformed.total() == 2


def test_a_model_that_does_not_answer_is_told() -> None:
    with pytest.raises(NotDescribedError, match="could not be asked, or did not answer") as info:
        describer_of(lambda prompt, seed: None).describe(posts("a"))
    assert info.value.outcome.reason == "unanswered"


def test_what_is_left_out_of_a_prompt_is_said() -> None:
    long = " ".join(["word"] * 30)
    found = describer_of().describe(posts(long, long, "last"))
    assert found.dropped_signals == 1
    assert found.description.endswith("last")


def test_no_prompt_short_enough_is_told_beside_those_that_are() -> None:
    writer = ScriptedWriter(remembering)
    writer.max_prompt_tokens = 3
    describer = PreferenceDescriber(writer, "scripted")
    requests = [DescriptionRequest(posts(text)) for text in ("a", "a b c d e f g h i j")]
    fitting, long = describer.write(requests)
    assert isinstance(fitting, WrittenDescription)
    assert isinstance(long, NotDescribed)
    assert (long.reason, long.attempts) == ("too_long", 0)


def test_calls_that_are_awaited_together_are_one_batch() -> None:
    describer = describer_of()

    async def ask(text: str) -> str:
        written = await describer.write_soon(DescriptionRequest(posts(text)))
        return written.description

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(f"user {i}") for i in range(64)))

    found = asyncio.run(ask_all())
    assert found == [f"nobody + user {i}" for i in range(64)]
    assert isinstance(describer.writer, ScriptedWriter)
    assert [len(batch) for batch in describer.writer.batches] == [64]
    assert asyncio.run(ask_all()) == found, "another event loop can use it, too"


def test_an_error_reaches_all_who_wait() -> None:
    def broken(prompt: str, seed: int) -> str:
        raise RuntimeError("out of memory")

    describer = describer_of(broken)

    async def ask_two() -> list[object]:
        requests = [describer.write_soon(DescriptionRequest(posts(text))) for text in "ab"]
        return list(await asyncio.gather(*requests, return_exceptions=True))

    assert [str(error) for error in asyncio.run(ask_two())] == ["out of memory"] * 2


def test_an_event_loop_that_ended_in_between_is_not_waited_for() -> None:
    def slow(prompt: str, seed: int) -> str:
        time.sleep(0.3)
        return remembering(prompt, seed)

    describer = describer_of(slow)

    async def ask(seconds: float) -> str:
        request = describer.write_soon(DescriptionRequest(posts("a")))
        return (await asyncio.wait_for(request, seconds)).description

    with pytest.raises(TimeoutError):
        asyncio.run(ask(0.01))
    assert asyncio.run(ask(10)) == "nobody + a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.sqlite"


def test_users_catch_up_together_round_by_round(path: Path) -> None:
    describer = describer_of()
    with UserStates(path) as states:
        states.add("ann", posts("1", "2", "3"))
        states.add("bob", posts("4"))
        caught_up = catch_up(states, describer, ["ann", "bob", "new"], per_round=2)
        assert [(each.user, each.signals) for each in caught_up.versions] == [
            ("ann", 2), ("bob", 1), ("ann", 1),
        ]  # fmt: skip
        ann = states.current("ann")
        assert ann is not None
        assert ann.description == "nobody + 1 , 2 + 3"
    assert isinstance(describer.writer, ScriptedWriter)
    assert [len(batch) for batch in describer.writer.batches] == [2, 1]


def test_too_few_signals_wait_for_more(path: Path) -> None:
    with UserStates(path) as states:
        states.add("ann", posts(*"12345"))
        catch_up(states, describer_of(), ["ann"], per_round=3, at_least=3)
        assert len(states.pending("ann")) == 2
        catch_up(states, describer_of(), ["ann"], per_round=1, at_least=2)
        assert len(states.pending("ann")) == 1, "there are enough, if more than are read at once"


def test_signals_that_gave_no_description_stay_pending(path: Path) -> None:
    def silent(prompt: str, seed: int) -> str | None:
        return None if "silence" in prompt else remembering(prompt, seed)

    with UserStates(path) as states:
        states.add("ann", posts("1", "silence"))
        states.add("bob", posts("2"))
        caught_up = catch_up(states, describer_of(silent), ["ann", "bob"], per_round=1)
        assert caught_up.failed["ann"].reason == "unanswered"
        assert [each.user for each in caught_up.versions] == ["ann", "bob"]
        assert len(states.pending("ann")) == 1


def test_another_process_that_was_quicker_is_built_on(path: Path) -> None:
    with UserStates(path) as states, UserStates(path) as other:

        def overtaken(prompt: str, seed: int) -> str:
            if "quick" not in prompt and len(other.history("ann")) == 1:
                catch_up(other, describer_of(lambda p, s: remembering("quick | " + p, s)),
                         ["ann"], per_round=1)  # fmt: skip
            return remembering(prompt, seed)

        states.add("ann", posts("1"))
        catch_up(states, describer_of(), ["ann"], per_round=1)
        states.add("ann", posts("2", "3"))
        caught_up = catch_up(states, describer_of(overtaken), ["ann"], per_round=1)
        assert caught_up.overtaken == {"ann": 1}
        assert sum(version.signals for version in states.history("ann")) == 3
        assert states.pending("ann") == []


def _slowly(prompt: str, seed: int) -> str:
    time.sleep(0.02)
    return remembering(prompt, seed)


def _catch_up(path: Path, users: list[str]) -> None:
    with UserStates(path) as states:
        catch_up(states, describer_of(_slowly), users, per_round=1)


def test_a_kill_loses_no_signal_and_reads_none_twice(path: Path) -> None:
    users = [f"user {i}" for i in range(4)]
    texts = [f"text {i}" for i in range(8)]
    with UserStates(path) as states:
        for user in users:
            states.add(user, posts(*texts))
    context = multiprocessing.get_context("spawn")
    for so_many in (5, 16):
        process = context.Process(target=_catch_up, args=(path, users))
        process.start()
        with UserStates(path) as states:
            while process.is_alive() and sum(len(states.history(user)) for user in users) < so_many:
                time.sleep(0.002)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    _catch_up(path, users)
    with UserStates(path) as states:
        for user in users:
            current = states.current(user)
            assert current is not None
            assert current.description == " + ".join(["nobody", *texts])
            assert [version.signals for version in states.history(user)] == [1] * len(texts)

"""Only what isn't there is asked for, never for more than the budget, and not for ever."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.asking import GIVE_UP_AFTER, Asking, Prices, Spending
from alignxplore_trl.synthesis.teachers import (
    Arrival,
    Ask,
    LocalTeacher,
    Teacher,
)
from alignxplore_trl.text.rendering import PromptSet
from tests.judging.fault_server import Body, FaultServer, Reply, refusal
from tests.synthesis.teaching import (
    SAMPLING,
    ScriptedTeacher,
    ask,
    choice,
    server_teacher,
    written,
)

TOKENS = st.lists(st.integers(0, SAMPLING.max_new_tokens), min_size=1, max_size=25)


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[TeacherAnswers]:
    answers = TeacherAnswers(tmp_path / "answers.sqlite")
    yield answers
    answers.close()


def numbered(own: Ask) -> Written:
    return written(f"{own.case_id}/{own.number}")


def fulfilled(
    teacher: Teacher,
    answers: TeacherAnswers,
    asks: Sequence[Ask],
    spending: Spending | None = None,
) -> tuple[dict[Ask, Written | Unanswered], Asking]:
    asking = Asking(teacher, answers, spending or Spending(None))
    arrivals: list[Arrival] = [own for batch in asking.fulfil(asks, seed=5) for own in batch]
    assert len(dict(arrivals)) == len(arrivals)
    return dict(arrivals), asking


def test_what_is_there_is_not_asked_for(answers: TeacherAnswers) -> None:
    teacher = ScriptedTeacher(numbered)
    asks = [ask(number) for number in range(20)]
    first, asking = fulfilled(teacher, answers, asks)
    assert asking.counts == Counter({"asked": 20, "cached": 0, "not_asked": 0})
    again, asking = fulfilled(teacher, answers, asks)
    assert again == first == {own: numbered(own) for own in asks}
    assert asking.counts == Counter({"cached": 20})
    assert teacher.asked == asks
    assert asking.spending.prompt_tokens == 20 * 3
    assert asking.spending.completion_tokens == 20 * 5


def test_more_candidates_are_asked_for_beside_those_that_are_there(
    answers: TeacherAnswers,
) -> None:
    teacher = ScriptedTeacher(numbered)
    cases = ("a", "b")
    fulfilled(teacher, answers, [ask(n, case_id=case) for case in cases for n in range(4)])
    teacher.asked.clear()
    found, asking = fulfilled(
        teacher, answers, [ask(n, case_id=case) for case in cases for n in range(8)]
    )
    assert len(found) == 16
    assert (asking.counts["asked"], asking.counts["cached"]) == (8, 8)
    assert teacher.asked == [ask(n, case_id=case) for case in cases for n in range(4, 8)]
    assert teacher.seeds[0] == 5 != teacher.seeds[1]


def test_another_teacher_is_asked(answers: TeacherAnswers) -> None:
    fulfilled(ScriptedTeacher(numbered), answers, [ask()])
    other = ScriptedTeacher(numbered, identity="other")
    fulfilled(other, answers, [ask()])
    assert other.asked == [ask()]


def test_further_candidates_of_a_local_teacher_are_not_the_first_ones_again(
    answers: TeacherAnswers,
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
) -> None:
    describer = Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=6, temperature=1.0, top_p=1.0, top_k=50),
        max_prompt_tokens=100,
        batch_size=4,
    )
    teacher = LocalTeacher(describer, "random", seed=0)
    first, _ = fulfilled(teacher, answers, [ask(number) for number in range(4)])
    more, _ = fulfilled(teacher, answers, [ask(number) for number in range(8)])
    assert {own: more[own] for own in first} == first
    texts = [own.text for own in more.values() if isinstance(own, Written)]
    assert len(set(texts)) == len(texts) == 8


@settings(max_examples=25)
@given(
    tokens=TOKENS,
    limit=st.floats(0, 1.5),
    prices=st.builds(Prices, st.floats(0, 4), st.floats(0.01, 4)),
    concurrency=st.integers(1, 8),
)
def test_the_budget_is_never_exceeded_and_the_rest_is_counted(
    tokens: list[int], limit: float, prices: Prices, concurrency: int
) -> None:
    """The limit is a share of what would be reserved for all."""
    asks = [ask(n, prompt=" ".join(["a"] * (1 + n % 5)) + f" {n}") for n in range(len(tokens))]
    of_number = {own.prompt: (len(own.prompt.split()), tokens[own.number]) for own in asks}

    def plan(body: Body, _: int) -> Reply:
        read, wrote = of_number[body["prompt"]]
        usage = {"prompt_tokens": read, "completion_tokens": wrote}
        return Reply(json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode())

    reserved = sum(prices.of(read, SAMPLING.max_new_tokens) for read, _ in of_number.values())
    spending = Spending(prices, limit * reserved)
    with FaultServer(plan) as server, TemporaryDirectory() as folder:
        answers = TeacherAnswers(Path(folder) / "answers.sqlite")
        teacher = server_teacher(server.url, concurrency=concurrency)
        found, asking = fulfilled(teacher, answers, asks, spending)
        sent = [each.body["prompt"] for each in server.received]
        answers.close()
    assert spending.cost <= limit * reserved * (1 + 1e-9)
    assert spending.cost == pytest.approx(sum(prices.of(*of_number[prompt]) for prompt in sent))
    assert asking.counts["asked"] == len(sent) == len(set(sent)) == len(found)
    assert asking.counts["asked"] + asking.counts["not_asked"] == len(asks)
    # Earlier ones come first, and what is left can't pay for the next one.
    assert set(found) == set(asks[: len(found)])
    if len(found) < len(asks):
        following = prices.of(of_number[asks[len(found)].prompt][0], SAMPLING.max_new_tokens)
        assert spending.cost + following > limit * reserved * (1 - 1e-9)
    if limit > 1 + 1e-9:
        assert len(found) == len(asks)


def test_a_larger_budget_asks_for_what_was_left(answers: TeacherAnswers) -> None:
    asks = [ask(number) for number in range(10)]
    prices = Prices(0, 1_000_000)
    teacher = ScriptedTeacher(numbered, batch=1)
    _, asking = fulfilled(teacher, answers, asks, Spending(prices, 20))
    assert asking.counts == Counter({"asked": 3, "not_asked": 7, "cached": 0})  # 5 + 5 + 8 <= 20
    _, asking = fulfilled(teacher, answers, asks, Spending(prices, 53))
    assert asking.counts == Counter({"asked": 7, "not_asked": 0, "cached": 3})
    assert teacher.asked == asks
    assert asking.spending.cost == 50
    _, asking = fulfilled(teacher, answers, asks, Spending(prices, 12))
    assert asking.counts == Counter({"cached": 2, "not_asked": 8})
    assert asking.spending.cost == 10
    assert teacher.asked == asks


def test_what_a_teacher_costs_beyond_our_count_is_reserved_from_its_first_answer_on(
    answers: TeacherAnswers,
) -> None:
    """Each answer costs five times what was counted for it; many could be under way at once."""
    under_way: list[int] = []

    def plan(body: Body, _: int) -> Reply:
        under_way.append(server.peak)
        usage = {"prompt_tokens": 0, "completion_tokens": 5 * SAMPLING.max_new_tokens}
        return Reply(json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode(), delay=0.05)

    spending = Spending(Prices(0, 1e6 / SAMPLING.max_new_tokens), 26)
    asks = [ask(number, prompt=f"prompt {number}") for number in range(60)]
    with FaultServer(plan) as server:
        _, asking = fulfilled(server_teacher(server.url), answers, asks, spending)
    assert spending.cost == pytest.approx(25)
    assert (asking.counts["asked"], asking.counts["not_asked"]) == (5, 55)
    assert under_way[0] == 1 < max(under_way)


def test_a_teacher_is_tried_only_where_something_is_missing(answers: TeacherAnswers) -> None:
    class Tried(ScriptedTeacher):
        tries = 0

        def check(self) -> None:
            self.tries += 1

    teacher = Tried(numbered)
    for tries, asks in ((1, [ask()]), (1, [ask()]), (2, [ask(), ask(1)])):
        fulfilled(teacher, answers, asks)
        assert teacher.tries == tries


def test_without_a_limit_tokens_are_not_counted_beforehand(answers: TeacherAnswers) -> None:
    class Uncounted(ScriptedTeacher):
        def count_tokens(self, text: str) -> int:
            raise AssertionError

    _, asking = fulfilled(Uncounted(numbered), answers, [ask()], Spending(Prices(1e6, 1e6)))
    assert asking.spending.cost == 8


def test_what_is_not_answered_is_counted_by_reason_and_asked_again(
    answers: TeacherAnswers,
) -> None:
    def now_and_then(own: Ask) -> Written | Unanswered:
        reasons = {0: "timeout", 1: "status_429"}
        return Unanswered(reasons[own.number % 3]) if own.number % 3 in reasons else written()

    asks = [ask(number) for number in range(9)]
    prices = Prices(1e6, 1e6)
    spending = Spending(prices, 1e6)
    found, asking = fulfilled(ScriptedTeacher(now_and_then), answers, asks, spending)
    assert asking.counts == Counter(
        {"unanswered/timeout": 3, "unanswered/status_429": 3, "asked": 3, "cached": 0}
    )
    assert found[asks[0]] == Unanswered("timeout")
    assert spending.cost == 3 * 8
    assert spending.reserve(1_000_000 - 24, 0) is not None
    teacher = ScriptedTeacher(numbered)
    fulfilled(teacher, answers, asks)
    assert teacher.asked == [own for own in asks if own.number % 3 < 2]


def test_a_teacher_that_is_out_is_given_up_and_the_next_run_asks_for_the_rest(
    answers: TeacherAnswers,
) -> None:
    asks = [ask(number, prompt=f"prompt {number}") for number in range(300)]
    lock, answered = threading.Lock(), 0

    def out_after_40(body: Body, _: int) -> Reply:
        nonlocal answered
        with lock:
            answered += 1
            return choice("a") if answered <= 40 else refusal(400)

    with FaultServer(out_after_40) as server:
        asking = Asking(server_teacher(server.url), answers, Spending(None))
        with pytest.raises(UserError, match=r"no answer to 5\d requests in a row") as error_info:
            list(asking.fulfil(asks, seed=0))
        # Beside each answer seven more are under way: refusals that come before the last good
        # answer don't count as in a row, nor can those behind the last one be taken back.
        refused = len(server.received) - 40
        assert GIVE_UP_AFTER <= refused <= GIVE_UP_AFTER + 7 + 7
        assert asking.counts["unanswered/status_400"] == refused
    for told in (
        f"'unanswered/status_400': {refused}",
        "what was answered is kept",
        "the same command",
    ):
        assert told in str(error_info.value)
    with FaultServer(lambda _, __: choice("b")) as server:
        found, asking = fulfilled(server_teacher(server.url), answers, asks)
        assert len(server.received) == 260
    assert (asking.counts["cached"], asking.counts["asked"]) == (40, 260)
    texts = Counter(own.text for own in found.values() if isinstance(own, Written))
    assert texts == {"a": 40, "b": 260}


def test_an_answer_now_and_then_keeps_it_asking(answers: TeacherAnswers) -> None:
    def rare(own: Ask) -> Written | Unanswered:
        return written() if own.number % 50 == 49 else Unanswered("timeout")

    found, asking = fulfilled(ScriptedTeacher(rare), answers, [ask(n) for n in range(200)])
    assert len(found) == 200
    assert asking.counts["unanswered/timeout"] == 196

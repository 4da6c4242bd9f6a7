"""The server judge and generator against a server that knows the right answers, and fails."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import pickle
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.judging.client import (
    CompletionsClient,
    Request,
    ServerSettings,
    Unanswered,
    _retry_after,
)
from alignxplore_trl.judging.encoding import EncodedQuestion, encode_questions, encode_replies
from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.sampled import SampledJudge
from alignxplore_trl.judging.selections import read_selection
from alignxplore_trl.judging.server import ServerAnswerWriter, ServerGenerator, ServerJudge
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import PromptSet, Question
from tests.judging.fault_server import (
    TOO_LATE,
    Body,
    FaultServer,
    Plan,
    Reply,
    drawn_plan,
    expected_reason,
    listing,
    quick,
    refusal,
    right,
    true_answers,
    true_probabilities,
    true_scores,
)

KEY = "sk-very-secret-0123456789"
Settings = Callable[..., ServerSettings]


def questions(count: int, posts: int = 0) -> list[Question]:
    """Distinct questions, about one post each or about fewer posts."""
    return [Question(f"post {i % (posts or count)}", "d", f"a {i}", "b") for i in range(count)]


def settings(*urls: str, **changes: Any) -> ServerSettings:
    return quick(*urls, **{"concurrency": 32, **changes})


@pytest.fixture
def judge_of(tokenizer: PreTrainedTokenizerFast, prompts: PromptSet) -> Callable[..., ServerJudge]:
    def make(where: ServerSettings, **options: Any) -> ServerJudge:
        return ServerJudge(tokenizer, prompts, where, **options)

    return make


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nothing answers: bound, so that nobody else is given it, yet not listened on.

    A server that asks for it by number gets it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.fixture
def answering() -> Iterator[FaultServer]:
    with FaultServer(lambda body, _: right(body)) as server:
        yield server


def truth(judge: ServerJudge, asked: list[Question]) -> list[Verdict]:
    encoded = encode_questions(judge.tokenizer, judge.prompts, asked, chat=False)
    pairs = [true_probabilities(each.token_ids) for each in encoded]
    return [Verdict(a / (a + b), a + b) for a, b in pairs]


def is_right(found: Verdict | None, true: Verdict) -> bool:
    return found is not None and (found.probability_a, found.label_mass) == pytest.approx(
        (true.probability_a, true.label_mass), abs=1e-12
    )


# --- what is asked, and what is made of the answer -----------------------------------------------


def test_verdicts_are_what_the_server_answers(
    answering: FaultServer, judge_of: Callable[..., ServerJudge]
) -> None:
    judge = judge_of(settings(answering.url))
    asked = questions(40)
    verdicts = judge.judge(asked)
    assert all(map(is_right, verdicts, truth(judge, asked)))
    body = answering.received[0].body
    assert (body["max_tokens"], body["temperature"], body["model"]) == (1, 0.0, "served")
    assert len(body["logprob_token_ids"]) == 2


def test_equal_questions_are_asked_once_and_everything_is_counted(
    answering: FaultServer, judge_of: Callable[..., ServerJudge]
) -> None:
    judge = judge_of(settings(answering.url))
    asked = questions(5) * 4
    judge.judge(asked)
    assert len(answering.received) == 5
    taken = judge.take_measurements()
    assert (taken.questions, taken.requests, taken.retries, taken.unanswered) == (20, 5, 0, {})
    assert (taken.lookups, taken.hits) == (20, 15)
    assert len(taken.latencies) == 5
    assert 0 < max(taken.latencies) < taken.seconds
    assert len(taken.label_masses) == len(taken.probabilities_a) == 20
    assert taken.tokens == sum(len(each.body["prompt"]) + 1 for each in answering.received)
    assert judge.take_measurements() == Measurements()


def test_no_questions_no_requests(
    answering: FaultServer, judge_of: Callable[..., ServerJudge]
) -> None:
    assert judge_of(settings(answering.url)).judge([]) == []
    assert answering.received == []


def test_works_where_an_event_loop_is_running(
    answering: FaultServer, judge_of: Callable[..., ServerJudge]
) -> None:
    judge = judge_of(settings(answering.url))
    asked = questions(3)

    async def reward() -> list[Verdict | None]:
        return judge.judge(asked)

    assert all(map(is_right, asyncio.run(reward()), truth(judge, asked)))


def test_what_a_run_draws_at_random_does_not_depend_on_the_server(
    judge_of: Callable[..., ServerJudge],
) -> None:
    state = random.getstate()
    with FaultServer(lambda _, __: refusal(500)) as server:
        judge_of(settings(server.url)).judge(questions(2))
    assert random.getstate() == state


def test_a_pickled_client_asks(answering: FaultServer) -> None:
    client = CompletionsClient(settings(answering.url))
    requests = [Request("k", {"prompt": [1, 2], "logprob_token_ids": [1, 2]}, len)]
    [size] = client.ask(requests, Measurements())
    assert isinstance(size, int)
    assert pickle.loads(pickle.dumps(client)).ask(requests, Measurements()) == [size]


# --- servers without logprob_token_ids -----------------------------------------------------------


@pytest.mark.parametrize("letters", ["token_ids", "top_logprobs"])
@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({" A": 0.6, " B": 0.3, " C": 0.05}, Verdict(0.6 / 0.9, 0.9)),
        # B is at most as probable as the least probable one that is listed, …
        ({" A": 0.6, " C": 0.05, " D": 0.02}, Verdict(0.6 / 0.62, 0.6)),
        # … and at most what is left.
        ({" B": 0.99, " C": 0.99e-2}, Verdict(1 - 0.99 / (0.99 + 0.0099), 0.99)),
        # A without the blank before it is another token.
        ({"A": 0.6, " B": 0.3}, None),
        ({" A": 0.4, " C": 0.3}, None),
        ({" C": 0.9, " D": 0.1}, None),
    ],
)
def test_the_most_probable_tokens_serve_as_well(
    judge_of: Callable[..., ServerJudge],
    letters: str,
    listed: dict[str, float],
    expected: Verdict | None,
) -> None:
    reply = listing({token: math.log(p) for token, p in listed.items()})
    with FaultServer(lambda _, __: reply) as server:
        judge = judge_of(settings(server.url), letters=letters)
        [verdict] = judge.judge(questions(1))
        assert ("logprob_token_ids" in server.received[0].body) == (letters == "token_ids")
    if expected is None:
        assert verdict is None
        assert judge.take_measurements().unanswered == {"label_mass": 1}
    else:
        assert is_right(verdict, expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "logprobs", "top_logprobs", "token_id:1", "token_id:2", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
LISTED = st.dictionaries(
    st.sampled_from(["token_id:1", "token_id:2", "token_id:3"]), st.floats(-30, 0.5) | JSON
)


@given(
    content=JSON
    | LISTED.map(lambda listed: {"choices": [{"logprobs": {"top_logprobs": [listed]}}]}),
    minimum=st.sampled_from([0.0, 0.5]),
)
def test_whatever_a_server_says_a_verdict_is_two_probabilities_or_none(
    judge_of_any: ServerJudge, content: Any, minimum: float
) -> None:
    judge_of_any.minimum_label_mass = minimum
    try:
        found = judge_of_any._read(EncodedQuestion([5, 6], 1, 2), json.dumps(content).encode())
    except ValueError:
        return
    if isinstance(found, Verdict):
        listed = content["choices"][0]["logprobs"]["top_logprobs"][0]
        a, b = (math.exp(listed.get(f"token_id:{i}", -math.inf)) for i in (1, 2))
        assert minimum <= found.label_mass == pytest.approx(a + b)
        assert found.label_mass <= 1.001
        assert 0.0 <= found.probability_a <= 1.0
        if a and b:
            assert found.probability_a == pytest.approx(a / (a + b))
    else:
        assert found == Unanswered("label_mass")


@pytest.fixture(scope="module")
def judge_of_any(tokenizer: PreTrainedTokenizerFast, prompts: PromptSet) -> ServerJudge:
    return ServerJudge(tokenizer, prompts, settings("http://127.0.0.1:1/v1"))


# --- failures ------------------------------------------------------------------------------------


def faulty_run(
    judge_of: Callable[..., ServerJudge], count: int, seed: int, timeout: float
) -> tuple[list[str], Measurements]:
    """Ask a server that fails in every way; the differences from what has to come out."""
    with FaultServer(drawn_plan(seed)) as server:
        where = settings(server.url, request_timeout=timeout, deadline=500.0, max_retries=3)
        judge = judge_of(where)
        asked = questions(count)
        verdicts = judge.judge(asked)
        received = len(server.received)
    taken = judge.take_measurements()
    encoded = encode_questions(judge.tokenizer, judge.prompts, asked, chat=False)
    reasons = [expected_reason(seed, each.token_ids, where.max_retries) for each in encoded]
    differences = [
        f"{question.response_a}: found {found}, expected {reason or true}"
        for question, found, true, reason in zip(
            asked, verdicts, truth(judge, asked), reasons, strict=True
        )
        if (found is None) != (reason is not None) or (found and not is_right(found, true))
    ]
    answered = sum(verdict is not None for verdict in verdicts)
    assert answered + sum(taken.unanswered.values()) == taken.questions == count
    assert taken.unanswered == Counter(reason for reason in reasons if reason)
    assert taken.requests == len(taken.latencies) == count + taken.retries
    # A request whose connection was refused by the kernel is never received.
    assert received <= taken.requests
    assert len(taken.label_masses) == answered
    return differences, taken


def test_every_fault_ends_in_the_right_number_or_a_counted_reason(
    judge_of: Callable[..., ServerJudge],
) -> None:
    differences, taken = faulty_run(judge_of, 500, seed=1, timeout=5.0)
    assert differences == []
    assert {"malformed", "label_mass", "status_400", "too_long"} <= set(taken.unanswered)


@pytest.mark.slow
def test_ten_thousand_requests_to_a_faulty_server(judge_of: Callable[..., ServerJudge]) -> None:
    differences, taken = faulty_run(judge_of, 10_000, seed=2, timeout=5.0)
    assert differences == []
    assert taken.retries > 1000


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_pass_is_asked_once(
    judge_of: Callable[..., ServerJudge], status: int
) -> None:
    with FaultServer(lambda _, __: refusal(status)) as server:
        judge = judge_of(settings(server.url))
        assert judge.judge(questions(6)) == [None] * 6
        assert len(server.received) == 6
    assert judge.take_measurements().unanswered == {f"status_{status}": 6}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_asked_again(judge_of: Callable[..., ServerJudge], status: int) -> None:
    with FaultServer(lambda body, n: right(body) if n == 2 else refusal(status)) as server:
        judge = judge_of(settings(server.url))
        assert all(map(is_right, judge.judge(questions(6)), truth(judge, questions(6))))
    taken = judge.take_measurements()
    assert (taken.requests, taken.retries, taken.unanswered) == (18, 12, {})


def test_retry_after_is_respected(judge_of: Callable[..., ServerJudge]) -> None:
    wait = refusal(429, headers={"Retry-After": "0.4"})
    with FaultServer(lambda body, n: right(body) if n else wait) as server:
        assert None not in judge_of(settings(server.url)).judge(questions(1))
        first, second = (each.time for each in server.received)
    assert second - first >= 0.4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.25", 0.25),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_of_seconds(header: str | None, seconds: float | None) -> None:
    assert _retry_after(header) == seconds


@pytest.mark.parametrize("seconds", [1000.0, -1000.0])
def test_retry_after_may_be_a_date(seconds: float) -> None:
    date = email.utils.formatdate(time.time() + seconds, usegmt=True)
    expected = pytest.approx(seconds, abs=300.0) if seconds > 0 else None
    assert _retry_after(date) == expected


def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(
    judge_of: Callable[..., ServerJudge],
) -> None:
    with FaultServer(lambda _, __: refusal(429, headers={"Retry-After": "3600"})) as server:
        judge = judge_of(settings(server.url))
        started = time.monotonic()
        assert judge.judge(questions(3)) == [None] * 3
        assert time.monotonic() - started < 10
    assert judge.take_measurements().unanswered == {"status_429": 3}


def test_a_call_ends_at_its_deadline_whatever_the_server_does(
    judge_of: Callable[..., ServerJudge],
) -> None:
    with FaultServer(lambda body, _: replace(right(body), delay=TOO_LATE)) as server:
        judge = judge_of(settings(server.url, deadline=1.0, concurrency=4))
        started = time.monotonic()
        assert judge.judge(questions(50)) == [None] * 50
        assert 1.0 <= time.monotonic() - started < 10
    taken = judge.take_measurements()
    assert taken.unanswered == {"deadline": 50}
    assert taken.requests == len(taken.latencies) == 4


def test_a_server_that_is_not_there_gives_reasons_at_once(
    judge_of: Callable[..., ServerJudge], free_port: int
) -> None:
    judge = judge_of(settings(f"http://127.0.0.1:{free_port}/v1"))
    assert judge.judge(questions(8)) == [None] * 8
    assert judge.take_measurements().unanswered == {"connection": 8}


@pytest.mark.parametrize(("processes", "peak"), [(1, 8), (4, 2), (100, 1)])
def test_processes_share_the_concurrency(
    judge_of: Callable[..., ServerJudge], processes: int, peak: int
) -> None:
    with FaultServer(lambda body, _: replace(right(body), delay=0.02)) as server:
        where = settings(server.url, concurrency=8, num_processes=processes)
        judge_of(where).judge(questions(20))
        assert server.peak == peak


# --- several servers -----------------------------------------------------------------------------


def test_questions_about_one_post_go_to_one_server(
    judge_of: Callable[..., ServerJudge],
) -> None:
    plan: Plan = lambda body, _: right(body)  # noqa: E731
    with FaultServer(plan) as one, FaultServer(plan) as other:
        judge = judge_of(settings(one.url, other.url))
        asked = questions(400, posts=100)
        assert None not in judge.judge(asked)
        posts = [
            {tuple(each.body["prompt"]) for each in server.received} for server in (one, other)
        ]
        assert not posts[0] & posts[1]
        encoded = encode_questions(judge.tokenizer, judge.prompts, asked, chat=False)
        server_of: dict[str, set[int]] = {}
        for question, each in zip(asked, encoded, strict=True):
            server_of.setdefault(question.post, set()).add(tuple(each.token_ids) in posts[0])
        assert all(len(servers) == 1 for servers in server_of.values())
        assert 120 < len(one.received) < 280


def test_a_dead_server_is_passed_over(
    judge_of: Callable[..., ServerJudge], answering: FaultServer, free_port: int
) -> None:
    dead = f"http://127.0.0.1:{free_port}/v1"
    judge = judge_of(settings(answering.url, dead, concurrency=4, dead_for=3600.0, max_retries=1))
    assert None not in judge.judge(questions(200))
    # Found dead by the few that were under way; the others never tried.
    assert 3 <= judge.take_measurements().retries <= 3 + 4


def test_a_dead_server_is_asked_again_later(
    judge_of: Callable[..., ServerJudge], answering: FaultServer, free_port: int
) -> None:
    dead = f"http://127.0.0.1:{free_port}/v1"
    judge = judge_of(settings(answering.url, dead, dead_for=0.05, max_retries=1))
    asked = questions(200)
    assert None not in judge.judge(asked)
    assert judge.take_measurements().retries >= 3
    time.sleep(0.1)
    with FaultServer(lambda body, _: right(body), port=free_port) as back:
        assert None not in judge.judge(asked)
        assert 60 < len(back.received) < 140
    assert judge.take_measurements().retries == 0


def test_a_hung_server_costs_one_timeout(
    judge_of: Callable[..., ServerJudge], answering: FaultServer
) -> None:
    hung: Plan = lambda body, _: replace(right(body), delay=TOO_LATE)  # noqa: E731
    with FaultServer(hung) as server:
        judge = judge_of(
            settings(answering.url, server.url, request_timeout=1.0, dead_for=60.0, concurrency=8)
        )
        asked = questions(100)
        assert all(map(is_right, judge.judge(asked), truth(judge, asked)))
        # Those under way at first, and those that go out until it has failed three times.
        assert len(server.received) <= 8 + 2


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_reaches_the_server_and_nothing_else(
    judge_of: Callable[..., ServerJudge],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    refused = refusal(401, f"Incorrect API key provided: {KEY}")
    with FaultServer(lambda body, n: refused if n else right(body)) as server:
        judge = judge_of(settings(server.url, key_variable="JUDGE_KEY"))
        assert None not in judge.judge(questions(1))
        assert server.received[0].headers["authorization"] == f"Bearer {KEY}"
        judge.check()
        with pytest.raises(UserError) as error_info:
            judge.check()
    error = error_info.value
    assert "JUDGE_KEY" in str(error)
    chain = [error, error.__cause__, error.__context__]
    for text in (*map(repr, chain), repr(judge.client.settings), repr(vars(judge.client))):
        assert KEY not in text
    assert KEY.encode() not in pickle.dumps(judge.client)
    assert KEY not in caplog.text


def test_a_key_of_openai_is_not_sent_to_other_servers(
    answering: FaultServer,
    judge_of: Callable[..., ServerJudge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge_of(settings(answering.url)).judge(questions(1))
    assert KEY not in str(answering.received[0].headers)


@pytest.mark.parametrize("value", [None, "", "schlüssel", "two\nlines"])
def test_a_key_that_can_not_be_sent_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("JUDGE_KEY", raising=False)
    else:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(UserError, match="JUDGE_KEY") as error_info:
        CompletionsClient(settings("http://127.0.0.1:1/v1", key_variable="JUDGE_KEY"))
    assert not value or value not in str(error_info.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "http:///v1", f"http://me:{KEY}@host/v1", f"https://host/v1?k={KEY}"]
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"judge\.server\.urls\[0\]") as error_info:
        settings(url)
    assert KEY not in str(error_info.value)


def test_no_address_is_a_mistake() -> None:
    with pytest.raises(UserError, match="found none"):
        settings()


# --- before training -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (refusal(401), "status 401 (no): it asks for a key"),
        (
            refusal(404),
            "status 404 (no): it doesn't know the model 'served' or the path; it serves",
        ),
        (refusal(400, "Unrecognized request argument"), "status 400 (Unrecognized request"),
        (refusal(503), "status 503"),
        (Reply(b"<html>"), "found another answer: the answer lacks the log-probabilities"),
        (replace(Reply(), delay=TOO_LATE), "found no answer: none within 1 s"),
    ],
)
def test_check_says_where_what_and_how_to_mend_it(
    judge_of: Callable[..., ServerJudge], reply: Reply, told: str
) -> None:
    with FaultServer(lambda _, __: reply) as server:
        with pytest.raises(UserError) as error_info:
            judge_of(settings(server.url, request_timeout=1.0)).check()
        assert told in str(error_info.value)
        assert server.url in str(error_info.value)


def test_check_tells_every_server_that_is_wrong(
    judge_of: Callable[..., ServerJudge], answering: FaultServer, free_port: int
) -> None:
    dead = f"http://127.0.0.1:{free_port}/v1"
    with FaultServer(lambda _, __: refusal(404)) as other, pytest.raises(UserError) as error_info:
        judge_of(settings(answering.url, dead, other.url)).check()
    nothing, unknown = error_info.value.problems
    assert nothing.startswith(f"{dead}: found no server: start one")
    assert unknown.startswith(other.url)


def test_check_is_silent_where_all_is_well(
    judge_of: Callable[..., ServerJudge], answering: FaultServer
) -> None:
    judge = judge_of(settings(answering.url))
    judge.check()
    assert judge.take_measurements() == Measurements()


# --- the generator -------------------------------------------------------------------------------

ROWS = [
    Continuation(f"post {i}", description, f"tldr, haha {i}")
    for i in range(10)
    for description in (None, "prefers brief")
]


@pytest.fixture
def generator_of(
    tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> Callable[..., ServerGenerator]:
    def make(where: ServerSettings, **options: Any) -> ServerGenerator:
        return ServerGenerator(tokenizer, prompts, where, **options)

    return make


def scored(body: Body, _: int) -> Reply:
    assert body["prompt_logprobs"] == 0
    return right(body)


def test_scores_are_those_of_the_response_alone(
    generator_of: Callable[..., ServerGenerator],
) -> None:
    with FaultServer(scored) as server:
        generator = generator_of(settings(server.url))
        generator.check()
        found = generator.log_probabilities(ROWS * 2)
        assert len(server.received) == 1 + len(ROWS)
    prompts = [generator.prompts.reply(row.post, row.description) for row in ROWS]
    encoded = encode_replies(generator.tokenizer, prompts, [row.response for row in ROWS])
    for scores, (head, tail) in zip(found, encoded * 2, strict=True):
        assert scores == pytest.approx(true_scores(head + tail)[len(head) :])
    taken = generator.take_measurements()
    assert (taken.questions, taken.requests, taken.hits) == (40, 20, 20)


def test_a_row_that_is_too_long_is_not_sent_and_is_counted(
    generator_of: Callable[..., ServerGenerator],
) -> None:
    rows = [*ROWS, Continuation("post", None, "haha " * 200)]
    with FaultServer(scored) as server:
        generator = generator_of(settings(server.url), max_tokens=100)
        found = generator.log_probabilities(rows)
        assert len(server.received) == len(ROWS)
    assert [scores is None for scores in found] == [False] * len(ROWS) + [True]
    assert generator.take_measurements().unanswered == {"too_long": 1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda scores: scores[:-1],
        lambda scores: [*scores[:-1], None],
        lambda scores: [*scores[:-1], {"7777": {"logprob": -1.0}}],
        lambda scores: [*scores[:-1], {k: {"logprob": float("nan")} for k in scores[-1]}],
        lambda scores: [*scores[:-1], {k: {"logprob": -9999.0} for k in scores[-1]}],
        lambda scores: [*scores[:-1], {k: {"logprob": 0.5} for k in scores[-1]}],
        lambda scores: [*scores[:-1], {k: {"logprob": None} for k in scores[-1]}],
        lambda scores: None,
    ],
)
def test_scores_that_can_not_be_are_no_answer(
    generator_of: Callable[..., ServerGenerator], spoil: Callable[[list[Any]], Any]
) -> None:
    def spoilt(body: Body, _: int) -> Reply:
        answer = json.loads(right(body).body)
        choice = answer["choices"][0]
        choice["prompt_logprobs"] = spoil(choice["prompt_logprobs"])
        return Reply(json.dumps(answer).encode())

    with FaultServer(spoilt) as server:
        generator = generator_of(settings(server.url))
        assert generator.log_probabilities(ROWS[:3]) == [None] * 3
    assert generator.take_measurements().unanswered == {"malformed": 3}


def test_a_key_given_as_the_name_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(UserError) as error_info:
        CompletionsClient(settings("http://127.0.0.1:1/v1", key_variable=KEY))
    assert KEY not in str(error_info.value)


# --- answers that are written --------------------------------------------------------------------


def writer_of(url: str, **options: Any) -> ServerAnswerWriter:
    return ServerAnswerWriter(
        settings(url), **{"max_new_tokens": 16, "temperature": 1.0, **options}
    )


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_what_the_server_writes(answering: FaultServer, chat: bool) -> None:
    start = "" if chat else "So: "
    writer = writer_of(answering.url, chat=chat, answer_start=start, answer_end="!")
    answers = writer.write(["one", "two", "one"], 3)
    for prompt, own in zip(("one", "two", "one"), answers, strict=True):
        assert own == [f"{start}{each}!" for each in true_answers(prompt + start, 3)]
    assert {each.path for each in answering.received} == {
        "/v1/chat/completions" if chat else "/v1/completions"
    }
    body = answering.received[0].body
    assert (body["n"], body["max_tokens"], body["temperature"]) == (3, 16, 1.0)
    taken = writer.take_measurements()
    assert (taken.questions, taken.requests, taken.hits, taken.tokens) == (3, 2, 1, 14)


@pytest.mark.parametrize(
    "content",
    [
        {"choices": [{"text": "A"}]},
        {"choices": [{"text": "A"}, {}]},
        {"choices": [{"text": "A"}, {"text": 7}]},
        {"choices": None},
        {},
    ],
)
def test_what_is_no_answer_is_none_and_counted(content: dict[str, Any]) -> None:
    with FaultServer(lambda _, __: Reply(json.dumps(content).encode())) as server:
        writer = writer_of(server.url)
        assert writer.write(["one"], 2) == [None]
        assert writer.take_measurements().unanswered == {"malformed": 1}
        with pytest.raises(UserError, match="found another answer"):
            writer.check(samples=2)


def test_a_message_without_content_is_an_empty_answer() -> None:
    """All tokens went into the reasoning, which the server keeps apart."""
    reply = Reply(
        b'{"choices": [{"message": {"content": null, "reasoning": "hm"}}], "usage": null}'
    )
    with FaultServer(lambda _, __: reply) as server:
        assert writer_of(server.url, chat=True).write(["one"], 1) == [[""]]


def test_an_answer_cannot_be_begun_in_a_message() -> None:
    with pytest.raises(ValueError, match="answer_start"):
        writer_of("http://127.0.0.1:1/v1", chat=True, answer_start="So: ")


def test_a_sampled_judge_on_a_server_votes_by_what_can_be_read(
    answering: FaultServer, prompts: PromptSet
) -> None:
    judge = SampledJudge(writer_of(answering.url), prompts, samples=8, minimum_label_mass=0.0)
    asked = questions(20)
    for question, verdict in zip(asked, judge.judge(asked), strict=True):
        letters = list(map(read_selection, true_answers(prompts.judgement(question), 8)))
        readable = [letter for letter in letters if letter]
        assert verdict == Verdict(readable.count("A") / len(readable), len(readable) / 8)


# --- one request after another -------------------------------------------------------------------


def numbered(number: int) -> tuple[int, Request[str]]:
    """A request that is answered by its own number."""
    read: Callable[[bytes], str] = lambda content: json.loads(content)["echo"]  # noqa: E731
    return number, Request(f"key {number}", {"prompt": str(number)}, read)


def echo(body: Body, _: int) -> Reply:
    return Reply(json.dumps({"echo": body["prompt"]}).encode(), delay=0.005)


def asked_each(
    where: ServerSettings, count: int, measurements: Measurements | None = None
) -> list[tuple[int, str | Unanswered]]:
    numbers, taken = iter(range(count)), []
    CompletionsClient(where).ask_each(
        lambda: next(map(numbered, numbers), None),
        lambda number, answer: taken.append((number, answer)),
        measurements or Measurements(),
    )
    return taken


def test_each_answer_is_handed_over_with_what_it_is_known_by() -> None:
    measured = Measurements()
    with FaultServer(echo) as server:
        taken = asked_each(settings(server.url, concurrency=7), 50, measured)
        assert server.peak == 7
        assert len(server.received) == 50
    assert sorted(taken) == [(number, str(number)) for number in range(50)]
    assert (measured.requests, measured.retries, len(measured.latencies)) == (50, 0, 50)
    assert asked_each(settings("http://127.0.0.1:9/v1"), 0) == []


def test_no_more_is_pulled_than_is_under_way() -> None:
    pulled = taken = 0
    ahead: list[int] = []

    def pull() -> tuple[int, Request[str]] | None:
        nonlocal pulled
        if pulled == 40:
            return None
        pulled += 1
        ahead.append(pulled - taken)
        return numbered(pulled)

    def take(number: int, answer: str | Unanswered) -> None:
        nonlocal taken
        taken += 1

    with FaultServer(echo) as server:
        CompletionsClient(settings(server.url, concurrency=5)).ask_each(pull, take, Measurements())
    assert taken == 40
    assert max(ahead) == 5


def test_what_is_there_only_after_an_answer_is_pulled_then() -> None:
    waiting = [0]
    taken: list[int] = []

    def take(number: int, answer: str | Unanswered) -> None:
        taken.append(number)
        if number < 5:
            waiting.append(number + 1)

    with FaultServer(echo) as server:
        CompletionsClient(settings(server.url)).ask_each(
            lambda: numbered(waiting.pop()) if waiting else None, take, Measurements()
        )
    assert taken == [0, 1, 2, 3, 4, 5]


def test_each_request_has_its_own_deadline() -> None:
    def third_hangs(body: Body, _: int) -> Reply:
        delay = TOO_LATE if body["prompt"] == "3" else 0.1
        return replace(echo(body, 0), delay=delay)

    with FaultServer(third_hangs) as server:
        where = settings(server.url, concurrency=2, deadline=0.8)
        taken = dict(asked_each(where, 24))
    assert taken.pop(3) == Unanswered("deadline")
    assert taken == {number: str(number) for number in range(24) if number != 3}


def test_failures_are_told_one_by_one() -> None:
    def by_number(body: Body, attempt: int) -> Reply:
        faults = {"1": refusal(400), "2": Reply(b"<html>"), "3": Reply(cut=0)}
        if body["prompt"] == "4" and attempt == 0:
            return refusal(429)
        return faults.get(body["prompt"], echo(body, attempt))

    measured = Measurements()
    with FaultServer(by_number) as server:
        taken = dict(asked_each(settings(server.url, max_retries=1), 6, measured))
    assert taken == {
        0: "0",
        1: Unanswered("status_400"),
        2: Unanswered("malformed"),
        3: Unanswered("connection"),
        4: "4",
        5: "5",
    }
    assert measured.retries == 2


@pytest.mark.parametrize("where", ["pull", "take"])
def test_an_error_of_who_asks_ends_all_requests(where: str) -> None:
    numbers = iter(range(100))

    def pull() -> tuple[int, Request[str]]:
        if (number := next(numbers)) == 20 and where == "pull":
            raise UserError("pull")
        return numbered(number)

    def take(number: int, answer: str | Unanswered) -> None:
        if where == "take":
            raise UserError("take")

    with FaultServer(echo) as server:
        client = CompletionsClient(settings(server.url))
        with pytest.raises(UserError, match=where):
            client.ask_each(pull, take, Measurements())
        assert len(server.received) <= 20 + 32

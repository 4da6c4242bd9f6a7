"""A judge and a generator on servers: right answers or none, whatever the servers do."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from alignxplore_trl.judging.encoding import encode_questions
from alignxplore_trl.judging.protocol import Question, judgement
from alignxplore_trl.judging.server import ServedGenerator, ServedJudge
from alignxplore_trl.run.errors import UserError
from tests.run.stub_server import Reply, StubServer

SERVED: dict[str, Any] = {"model": "assets/judge", "served_as": "served", "chat": False}
QUESTIONS = [
    Question(f"fixing bikes {n}", "prefers brief", "tldr", "furthermore") for n in range(300)
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)


def judge_at(*urls: str, **settings: Any) -> ServedJudge:
    return ServedJudge(**SERVED, urls=urls, prompts="compact", **settings)


def truth(prompt: Sequence[int]) -> tuple[float, float]:
    """P(A) and P(B) behind a prompt; together at least 0.6."""
    draw = random.Random(str(list(prompt)))
    mass, share = draw.uniform(0.6, 1.0), draw.random()
    return mass * share, mass * (1 - share)


def listing(values: object) -> Reply:
    return Reply({"choices": [{"logprobs": {"top_logprobs": [values]}}]})


def right(body: dict[str, Any]) -> Reply:
    letters = zip(body["logprob_token_ids"], truth(body["prompt"]), strict=True)
    return listing({f"token_id:{token}": math.log(p) for token, p in letters})


def both(body: dict[str, Any], value: object) -> Reply:
    return listing({f"token_id:{token}": value for token in body["logprob_token_ids"]})


WRONG = [
    lambda body: Reply({"error": {"message": "slow"}}, 429, {"Retry-After": "0.01"}),
    lambda body: Reply({"error": {"code": 429, "message": "slow"}}),
    lambda body: Reply({}, 503),
    lambda body: Reply({"error": {"message": "no"}}, 400),
    lambda body: Reply({"error": {"param": "input_tokens", "message": "long"}}, 400),
    lambda body: Reply(right(body).body, cut=30),
    lambda body: Reply(right(body).body, pause=3.0),
    lambda body: Reply(b"<html>Log in</html>"),
    lambda body: Reply({"choices": [{"logprobs": None}]}),
    lambda body: Reply({"choices": [right(body).body["choices"][0]] * 2}),
    lambda body: listing({}),
    lambda body: listing([["token_id:1", -0.1]]),
    lambda body: listing({"token_id:1": "-0.1"}),
    lambda body: both(body, "NaN"),
    lambda body: both(body, float("nan")),
    lambda body: both(body, -9999.0),
    lambda body: both(body, math.log(0.7)),
    lambda body: listing({"token_id:0": -0.01}),
]


def faulty(body: dict[str, Any], attempt: int) -> Reply:
    """Right in two of three attempts, and late in some of these; else wrong in one of the ways."""
    seed = hashlib.sha256(f"{attempt}/{body['prompt']}".encode()).digest()
    draw = random.Random(seed)
    if draw.random() < 0.67:
        return Reply(right(body).body, pause=draw.choice([0.0, 0.0, 0.05]))
    return draw.choice(WRONG)(body)


def test_of_300_questions_to_a_faulty_server_none_is_answered_wrongly(capsys: Any) -> None:
    with StubServer(faulty) as server:
        judge = judge_at(server.url, timeout=0.6, deadline=60.0)
        verdicts = judge.judge(QUESTIONS)
    texts = [judgement(judge.templates, own, "description_first") for own in QUESTIONS]
    encoded = encode_questions(judge.tokenizer, texts, chat=False)
    for own, (ids, _) in zip(verdicts, encoded, strict=True):
        if own is not None:
            a, b = truth(ids)
            assert own.probability_a == pytest.approx(a / (a + b), abs=1e-9)
            assert own.label_mass == pytest.approx(a + b, abs=1e-9)
    unanswered = verdicts.count(None)
    assert 20 < unanswered < 120
    assert judge.counts.total() == unanswered
    assert {"malformed", "status_400", "too_long", "label_mass"} <= judge.counts.keys()
    assert capsys.readouterr().err.count(server.url) <= 10, "each reason is said once"


def test_letters_among_the_most_probable_tokens_are_enough() -> None:
    def plan(body: dict[str, Any], attempt: int) -> Reply:
        assert "logprob_token_ids" not in body
        return listing(tops[len(server.received) - 1])

    tops = [
        {" A": math.log(0.6), " B": math.log(0.3), "!": math.log(0.05)},
        {" A": math.log(0.9), "!": math.log(0.02)},
        {"!": math.log(0.9), "?": math.log(0.05)},
        {" A": math.log(0.2), " B": math.log(0.1), "!": math.log(0.6)},
    ]
    with StubServer(plan) as server:
        judge = judge_at(server.url, letters="top_logprobs", concurrency=1)
        first, second, third, fourth = judge.judge(QUESTIONS[:4])
    assert first is not None
    assert first.probability_a == pytest.approx(2 / 3)
    assert first.label_mass == pytest.approx(0.9)
    assert second is not None
    assert second.probability_a == pytest.approx(0.9 / 0.92)
    assert (third, fourth) == (None, None)
    assert judge.counts == {"label_mass": 2}


def test_equal_questions_are_asked_once() -> None:
    with StubServer(lambda body, _: right(body)) as server:
        judge = judge_at(server.url)
        verdicts = judge.judge([*QUESTIONS[:3], *QUESTIONS[:3]])
        assert verdicts[:3] == verdicts[3:]
        assert len(server.received) == 3
        assert judge.judge([]) == []


def test_a_server_is_tried_before_anything_depends_on_it() -> None:
    with StubServer(lambda body, _: right(body)) as one:
        judge_at(one.url).load()
        with StubServer(lambda *_: Reply({"choices": [{"text": "A"}]})) as other:
            with pytest.raises(UserError, match=r"no log-probabilities.*judge=sampled") as error:
                judge_at(one.url, other.url).load()
            assert one.url not in str(error.value)


def scores(prompt: Sequence[int]) -> list[float]:
    draw = random.Random(str(list(prompt)))
    return [-draw.expovariate(1.0) for _ in prompt]


def test_a_generator_reads_the_replys_own_tokens_and_no_others() -> None:
    def plan(body: dict[str, Any], attempt: int) -> Reply:
        prompt = body["prompt"]
        rows = [
            {str(token): {"logprob": own}, "0": {"logprob": -9.0}}
            for token, own in zip(prompt, scores(prompt), strict=True)
        ]
        wrong = {1: [None, *rows[2:]], 2: [None, *({"0": {"logprob": -1.0}} for _ in rows[1:])]}
        found = wrong.get(len(server.received) % 4, [None, *rows[1:]])
        return Reply({"choices": [{"prompt_logprobs": found}]})

    prompts, replies = ["<post> fixing<reply>"] * 8, [f"tldr {'haha ' * n}" for n in range(8)]
    with StubServer(plan) as server:
        generator = ServedGenerator(**SERVED, urls=[server.url], concurrency=1)
        found = generator.log_probabilities(prompts, replies)
        sent = [body["prompt"] for body in server.received]
    assert [own is None for own in found] == [True, True, False, False] * 2
    for own, ids, reply in zip(found, sent, replies, strict=True):
        if own is not None:
            size = len(generator.tokenizer(f" {reply}", add_special_tokens=False)["input_ids"])
            assert own == pytest.approx(sum(scores(ids)[-size:]))
    assert generator.counts == {"malformed": 4}

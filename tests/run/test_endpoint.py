"""The client of OpenAI-compatible servers before servers that fail in every way they can."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alignxplore_trl.run.endpoint import Endpoint, Refusal, Request
from alignxplore_trl.run.errors import UserError
from tests.run.stub_server import Reply, StubServer

RIGHT = {"choices": [{"text": "yes"}]}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def request(prompt: str = "?", key: str = "") -> Request[str]:
    return Request(key or prompt, {"prompt": prompt}, lambda body: str(body["choices"][0]["text"]))


def ask(url: str, **settings: Any) -> str | Refusal:
    [answer] = Endpoint([url], "served", **settings).ask([request()])
    return answer


PASSING = {
    "overloaded": Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.01"}),
    "overloaded, in a body": Reply({"error": {"code": 429, "message": "slow down"}}),
    "an upstream's error": Reply({"choices": [{"finish_reason": "error", "text": ""}]}),
    "internal": Reply(b"<html>oh</html>", 500),
    "reset": Reply(RIGHT, cut=5),
    "hanging": Reply(RIGHT, pause=5.0),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_asked_again(kind: str) -> None:
    with StubServer(lambda _, attempt: Reply(RIGHT) if attempt else PASSING[kind]) as server:
        assert ask(server.url, timeout=0.5) == "yes"
        assert len(server.received) == 2


def error(**fields: str) -> dict[str, Any]:
    return {"error": {"message": "what is wrong", **fields}}


LASTING = {
    "bad request": (error(), 400, "status_400"),
    "bad, in a body": (error(type="invalid_request_error"), 200, "status_400"),
    "no key": (error(), 401, "status_401"),
    "too long": (error(param="input_tokens"), 400, "too_long"),
    "a proxy's page": (b"<html>what is wrong", 200, "malformed"),
    "no choice": ({"choices": [], "said": "what is wrong"}, 200, "malformed"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_is_said_once_in_the_servers_words(kind: str, capsys: Any) -> None:
    body, status, reason = LASTING[kind]
    with StubServer(lambda *_: Reply(body, status)) as server:
        endpoint = Endpoint([server.url], "served")
        answers = endpoint.ask([request(), request("!")])
    assert {own.reason for own in answers if isinstance(own, Refusal)} == {reason}
    assert endpoint.counts == {reason: 2}
    assert len(server.received) == 2
    [line] = [own for own in capsys.readouterr().err.splitlines() if server.url in own]
    assert "what is wrong" in line


def test_no_call_takes_longer_than_its_deadline() -> None:
    with StubServer(lambda *_: Reply(RIGHT, pause=1.0)) as server:
        endpoint = Endpoint([server.url], "served", concurrency=1, deadline=4.0)
        answers = endpoint.ask([request(str(n)) for n in range(6)])
        assert answers[0] == "yes"
        assert isinstance(answers[-1], Refusal)
        assert endpoint.counts.keys() == {"deadline"}
        each = endpoint.ask([request(f"each {n}") for n in range(5)], each=True)
        assert each == ["yes"] * 5


def test_a_lost_server_is_passed_over_and_keys_stay_where_they_are() -> None:
    with StubServer(lambda *_: Reply(RIGHT)) as one, StubServer(lambda *_: Reply(RIGHT)) as other:
        asked = [request(f"{key} {n}", key) for key in "abcdefgh" for n in range(3)]
        endpoint = Endpoint([one.url, other.url], "served")
        assert endpoint.ask(asked) == ["yes"] * 24
        keys = [{body["prompt"][0] for body in server.received} for server in (one, other)]
        assert all(keys)
        assert not keys[0] & keys[1]
        lost = Endpoint([one.url, "http://127.0.0.1:9/v1"], "served")
        assert lost.ask(asked) == ["yes"] * 24
        assert not lost.counts


def test_answers_arrive_one_by_one_also_where_a_loop_is_running() -> None:
    taken: dict[int, object] = {}

    async def in_a_notebook(endpoint: Endpoint) -> list[str | Refusal]:
        return endpoint.ask([request("a"), request("b")], taken=taken.__setitem__)

    with StubServer(lambda *_: Reply(RIGHT)) as server:
        answers = asyncio.run(in_a_notebook(Endpoint([server.url], "served")))
    assert answers == ["yes", "yes"]
    assert taken == {0: "yes", 1: "yes"}


def test_loopback_goes_past_the_proxy_and_others_name_it(monkeypatch: Any, capsys: Any) -> None:
    with StubServer(lambda *_: Reply({"error": {"message": "no such host"}}, 404)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        with StubServer(lambda *_: Reply(RIGHT)) as server:
            assert ask(server.url) == "yes"
        answer = ask("http://judge.invalid/v1")
    assert isinstance(answer, Refusal)
    assert answer.reason == "status_404"
    assert "proxy 127.0.0.1" in capsys.readouterr().err


def test_the_key_is_sent_and_never_said(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with StubServer(lambda *_: Reply({"error": {"message": "bad secret-key"}}, 403)) as server:
        ask(server.url, key_variable="JUDGE_KEY")
        ask(server.url)
    sent = [own.get("authorization", own.get("Authorization")) for own in server.headers]
    assert sent == ["Bearer secret-key", "Bearer no-key"]
    said = capsys.readouterr().err
    assert "bad <key>" in said
    assert "bad secret-key" not in said.splitlines()[0]


def test_wrong_settings_are_refused_and_not_repeated() -> None:
    for urls in ([], ["judge:8000"], ["http://me:secret@judge/v1"]):
        with pytest.raises(UserError, match=r"urls: expected http.*without user") as error:
            Endpoint(urls, "served")
        assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="key_variable: expected"):
        Endpoint(["http://judge/v1"], "served", "NOT_SET_ANYWHERE")

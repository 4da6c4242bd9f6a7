"""A server of completions that knows the right answers, and fails in every way a server can.

What it does with a request is a function of the seed, the prompt and how often that prompt has been
sent, so that a test can foresee how each question ends, in whatever order requests arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignxplore_trl.judging.client import ServerSettings

TOO_LATE = 60.0


@dataclass(frozen=True)
class Reply:
    """What is sent back.

    Attributes:
        body: its bytes.
        delay: seconds before the first byte.
        seconds_per_byte: pause after each byte of the body.
        cut: bytes of the body after which the connection ends; `None` sends all.
        reset: end it by a reset instead of an orderly close.
    """

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    seconds_per_byte: float = 0.0
    cut: int | None = None
    reset: bool = False


Body = dict[str, Any]
# What is sent for a request's body the n-th time (from 0) that this prompt is received.
Plan = Callable[[Body, int], Reply]


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    time: float
    path: str
    headers: Mapping[str, str]
    body: Body


def true_probabilities(prompt: Sequence[int]) -> tuple[float, float]:
    """P(A) and P(B) for a prompt; together at least 0.6."""
    draw = _random("letters", prompt)
    mass = draw.uniform(0.6, 1.0)
    share = draw.random()
    return mass * share, mass * (1.0 - share)


def true_scores(prompt: Sequence[int]) -> list[float]:
    """log p of each token of a prompt."""
    draw = _random("scores", prompt)
    return [-draw.expovariate(1.0) for _ in prompt]


def true_answers(prompt: Sequence[Any], count: int) -> list[str]:
    """What is written in answer to a prompt, in some of the shapes that models produce."""
    draw = _random("answers", prompt)
    shapes = ['{"selection": "Response %s"}', 'Well: ```json\n{"selection": "%s"}\n```']
    return [
        draw.choice([*(each % draw.choice("AB") for each in shapes), "?"]) for _ in range(count)
    ]


def right(body: Body) -> Reply:
    """The right answer, in vLLM's shape."""
    usage = {"total_tokens": 7}
    return Reply(json.dumps({"choices": _choices(body), "usage": usage}).encode())


def listing(listed: object) -> Reply:
    """An answer with these tokens and log-probabilities for the one that was generated."""
    return Reply(json.dumps({"choices": [{"logprobs": {"top_logprobs": [listed]}}]}).encode())


def refusal(status: int, message: str = "no", headers: Mapping[str, str] | None = None) -> Reply:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "error", "param": None, "code": status}
    return Reply(json.dumps({"error": error}).encode(), status, headers or {})


def _too_long(_: Body) -> Reply:
    error = {"message": "maximum context length", "param": "input_tokens", "code": 400}
    return Reply(json.dumps({"error": error}).encode(), 400)


@dataclass(frozen=True)
class Fault:
    """A way to fail: how it is done, the reason it has to be counted under, and how often."""

    reply: Callable[[Body], Reply]
    reason: str | None
    weight: float


def _both(p: float) -> Callable[[Body], Reply]:
    return lambda body: listing({f"token_id:{i}": p for i in body.get("logprob_token_ids", [0])})


def _json(value: object) -> Callable[[Body], Reply]:
    return lambda _: Reply(json.dumps(value).encode())


def _raw(body: bytes) -> Callable[[Body], Reply]:
    return lambda _: Reply(body)


def _status(status: int, **headers: str) -> Callable[[Body], Reply]:
    return lambda _: refusal(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def _changed(**changes: Any) -> Callable[[Body], Reply]:
    def reply(body: Body) -> Reply:
        answer = right(body)
        return Reply(answer.body, **changes)

    return reply


FAULTS: dict[str, Fault] = {
    "none": Fault(right, None, 60),
    "delay": Fault(_changed(delay=0.05), None, 8),
    "hang": Fault(_changed(delay=TOO_LATE), "timeout", 0.7),
    "slow_bytes": Fault(_changed(seconds_per_byte=0.1), "timeout", 0.7),
    "reset": Fault(_changed(cut=0, reset=True), "connection", 2),
    "close": Fault(_changed(cut=0), "connection", 2),
    "reset_in_the_middle": Fault(_changed(cut=20, reset=True), "connection", 2),
    "truncated": Fault(_changed(cut=30), "connection", 2),
    "too_many": Fault(_status(429), "status_429", 2),
    "too_many_wait": Fault(_status(429, Retry_After="0.05"), "status_429", 2),
    "too_many_nonsense": Fault(_status(429, Retry_After="soon"), "status_429", 1),
    "too_many_past": Fault(_status(429, Retry_After="-5"), "status_429", 1),
    "error": Fault(_status(500), "status_500", 2),
    "error_as_text": Fault(lambda _: Reply(b"<html>oh</html>", 500), "status_500", 1),
    "unavailable": Fault(_status(503), "status_503", 2),
    "request_timeout": Fault(_status(408), "status_408", 1),
    "bad_request": Fault(_status(400), "status_400", 0.3),
    "too_long": Fault(_too_long, "too_long", 0.3),
    "garbage": Fault(_raw(b'{"choices": [{"logp'), "malformed", 0.3),
    "binary": Fault(_raw(bytes(range(256))), "malformed", 0.3),
    "empty": Fault(_raw(b""), "malformed", 0.3),
    "other_json": Fault(_json({"error": "but with status 200"}), "malformed", 0.3),
    "a_list": Fault(_json([1, 2, 3]), "malformed", 0.3),
    "no_choice": Fault(_json({"choices": []}), "malformed", 0.3),
    "no_logprobs": Fault(_json({"choices": [{"logprobs": None}]}), "malformed", 0.3),
    "null": Fault(lambda _: listing(None), "malformed", 0.3),
    "no_tokens": Fault(lambda _: listing({}), "malformed", 0.3),
    "tokens_as_list": Fault(lambda _: listing([["token_id:1", -0.1]]), "malformed", 0.3),
    "words_for_numbers": Fault(lambda _: listing({"token_id:1": "-0.1"}), "malformed", 0.3),
    "nan": Fault(_both(float("nan")), "malformed", 0.3),
    "infinite": Fault(_both(float("-inf")), "malformed", 0.3),
    "above_one": Fault(_both(0.7), "malformed", 0.3),
    "twice_one": Fault(_both(0.0), "malformed", 0.3),
    "other_tokens": Fault(lambda _: listing({"token_id:0": -0.01}), "label_mass", 1),
}
PASSING = {"timeout", "connection", "status_408", "status_429", "status_500", "status_503"}


def drawn_fault(seed: int, prompt: Sequence[int], attempt: int) -> Fault:
    """What happens to the n-th sending of a prompt."""
    draw = _random(f"{seed}/{attempt}", prompt)
    [name] = draw.choices(list(FAULTS), [fault.weight for fault in FAULTS.values()])
    return FAULTS[name]


def expected_reason(seed: int, prompt: Sequence[int], max_retries: int) -> str | None:
    """How a question has to end: the reason without an answer, or `None` with one."""
    reason = None
    for attempt in range(max_retries + 1):
        reason = drawn_fault(seed, prompt, attempt).reason
        if reason not in PASSING:
            break
    return reason


def drawn_plan(seed: int) -> Plan:
    """Every fault now and then."""
    return lambda body, attempt: drawn_fault(seed, body["prompt"], attempt).reply(body)


def quick(*urls: str, **changes: Any) -> ServerSettings:
    """A client's settings with short waits: what takes seconds in earnest takes hundredths here."""
    usual = ServerSettings(
        urls,
        "served",
        concurrency=8,
        request_timeout=20.0,
        deadline=60.0,
        first_wait=0.01,
        longest_wait=0.02,
        dead_for=0.2,
    )
    return replace(usual, **changes)


class FaultServer:
    """Serves completions, also of chats, and the names of models in a thread, on its own port.

    Attributes:
        url: its address, as a client is given it.
        received: the completions that were asked for.
        peak: the most requests that were under way at once.
    """

    def __init__(self, plan: Plan, port: int = 0) -> None:
        self.plan = plan
        self.received: list[Received] = []
        self.peak = 0
        self._under_way = 0
        self._sent: Counter[tuple[Any, ...]] = Counter()
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket)
        await self._stopped.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The client is gone, or the test is over.
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split(" ")[1]
        if path == "/v1/models":
            models = {"object": "list", "data": [{"id": "served", "object": "model"}]}
            return await _send(writer, Reply(json.dumps(models).encode()))
        body = json.loads(content)
        self.received.append(Received(time.monotonic(), path, headers, body))
        prompt = _prompt(body)
        attempt = self._sent[prompt]
        self._sent[prompt] += 1
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            return await _send(writer, self.plan(body, attempt))
        finally:
            self._under_way -= 1


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    await asyncio.sleep(reply.delay)
    head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    head += f"Content-Length: {len(reply.body)}\r\n\r\n"
    if reply.cut != 0:
        writer.write(head.encode())
    if reply.seconds_per_byte:
        for byte in reply.body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(reply.seconds_per_byte)
    else:
        writer.write(reply.body[: reply.cut])
        await writer.drain()
    if reply.cut is None:
        return True
    if reply.reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    return False


def _prompt(body: Body) -> tuple[Any, ...]:
    """Token ids, or characters where a text or a message is sent."""
    return tuple(body["messages"][0]["content"] if "messages" in body else body["prompt"])


def _choices(body: Body) -> list[dict[str, Any]]:
    prompt = _prompt(body)
    if "n" in body:
        answers = true_answers(prompt, body["n"])
        key = "message" if "messages" in body else "text"
        return [{key: {"content": each} if key == "message" else each} for each in answers]
    if "prompt_logprobs" in body:
        scores = zip(prompt[1:], true_scores(prompt)[1:], strict=True)
        return [{"prompt_logprobs": [None, *({str(t): {"logprob": s}} for t, s in scores)]}]
    letters = zip(body["logprob_token_ids"], true_probabilities(prompt), strict=True)
    listed = {f"token_id:{i}": _log(p) for i, p in letters}
    return [{"logprobs": {"top_logprobs": [listed]}}]


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -9999.0


def _random(what: str, prompt: Sequence[int]) -> random.Random:
    return random.Random(hashlib.sha256(f"{what}/{list(prompt)}".encode()).digest())

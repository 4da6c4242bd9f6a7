"""How much time the client itself takes when a teacher behind an endpoint is asked.

    python benchmarks/synthesis.py

A stub of an OpenAI-compatible server, in a process of its own, answers each request so many seconds
after the whole of it has arrived. It is asked for 1,000 completions by `Asking.fulfil`, with a
`ServerTeacher` and answers that are kept in a file, at 32 and 64 requests at once and 1 and 2
seconds. Prompts have 6,750 characters and answers 9,000: 1,500 and 2,000 tokens of English. (Of
answers that take longer the same own time is a smaller share.)
The ideal is ceil(1,000 / requests at once) times the seconds of an answer; own time is what is
measured beyond it, as a share of the ideal. Side by side with it, at 1 second: a plain loop of
asyncio and httpx with a semaphore, which parses the answers as JSON and keeps nothing. The last
line is one JSON object, where `32x1s` stands for 32 at once and 1 second:

    own_32x1s, own_64x1s, own_32x2s, own_64x2s    own time of ours / ideal
    own_64x1s_budget           the same with a budget: a prompt's tokens are counted before it is
                               sent, by the shipped teacher's tokenizer (which makes many of them)
    count_ms_per_prompt        CPU milliseconds of that: what it took beyond own_64x1s
    plain_32x1s, plain_64x1s   own time of the plain loop / ideal
    cpu_ms_per_answer          CPU milliseconds of ours for each answer at 64x1s, all threads
    plain_cpu_ms_per_answer    the same of the plain loop
    cached_seconds             for the same 1,000 from the file, of which none is asked for
    peak_32, peak_64           most requests that the stub had at once, of all these runs of ours
    answers_in_file            least number of rows in the file after a run of ours

That every answer arrives, that what is kept equals it, and that nothing kept is asked for again, is
checked on the way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import multiprocessing
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.judging.client import ServerSettings
from alignxplore_trl.judging.written import Written
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.asking import Asking, Prices, Spending
from alignxplore_trl.synthesis.teachers import TEACHING, Ask, ServerTeacher

logger = logging.getLogger("benchmark")

COMPLETIONS = 1000
PROMPT_TOKENS, ANSWER_TOKENS, CHARACTERS_PER_TOKEN = 1500, 2000, 4.5
CONCURRENCIES, SECONDS = (32, 64), (1, 2)
TEACHER = Path(__file__).parents[1] / "assets" / "teacher"
SAMPLING = SamplingSettings(max_new_tokens=4096, temperature=0.9, top_p=0.95, top_k=10)


@dataclass(frozen=True)
class Measured:
    """One time that all completions were asked for.

    Attributes:
        own: time beyond the ideal / ideal.
        cpu: seconds of CPU of this process.
        peak: most requests that the server had at once.
        in_file: answers that the file has.
    """

    own: float
    cpu: float
    peak: int
    in_file: int = 0


class Answering(asyncio.Protocol):
    """A connection to the stub: one request after another, each answered so many seconds later."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            self.received = b""
            self.stub.arrive(self.transport)


class Stub:
    """Answers like a server of completions, and counts how many requests it has at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.requests = self.present = self.peak = 0
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS}
        choice = {"index": 0, "text": make_text(ANSWER_TOKENS, seed=1), "finish_reason": "stop"}
        answer = {"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": usage}
        body = json.dumps(answer).encode()
        head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
        self.answer = f"{head}{len(body)}\r\n\r\n".encode() + body

    def arrive(self, transport: asyncio.Transport) -> None:
        """A whole request is there."""
        self.requests += 1
        self.present += 1
        self.peak = max(self.peak, self.present)
        asyncio.get_running_loop().call_later(self.seconds, self._send, transport)

    def _send(self, transport: asyncio.Transport) -> None:
        self.present -= 1
        transport.write(self.answer)

    async def serve(self, connection: Connection) -> None:
        """Send the port; at each message the requests so far and their peak, until one is empty."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answering(self), "127.0.0.1", 0, backlog=1024)
        connection.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, connection.recv):
            connection.send((self.requests, self.peak))


class Server:
    """The stub as the process that measures sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.url = f"http://127.0.0.1:{connection.recv()}/v1"

    def counts(self) -> tuple[int, int]:
        """Requests so far, and how many there were at once at most."""
        self._connection.send(True)
        requests, peak = self._connection.recv()
        return requests, peak


@contextmanager
def serving(seconds: float) -> Iterator[Server]:
    """A stub in a process of its own, as long as this is entered."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(seconds, theirs), daemon=True)
    process.start()
    try:
        yield Server(ours)
        ours.send(False)
    finally:
        process.join(timeout=5)
        process.terminate()


def _serve(seconds: float, connection: Connection) -> None:
    asyncio.run(Stub(seconds).serve(connection))


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def make_text(tokens: int, seed: int) -> str:
    """Words whose characters are as many as those of so many tokens of English."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeinorstlmdu", k=draw.randint(2, 9))) for _ in range(2000)]
    length = round(tokens * CHARACTERS_PER_TOKEN)
    return " ".join(draw.choices(words, k=length // 3))[:length]


def make_asks() -> list[Ask]:
    """What is asked for: four candidates of each case, as by default, from prompts of their own."""
    prompts = [make_text(PROMPT_TOKENS, seed) for seed in range(2, 12)]
    return [
        Ask(f"case-{n // 4}", 1, n % 4, f"{n // 4}: {prompts[n // 4 % 10]}\n<think>\n")
        for n in range(COMPLETIONS)
    ]


class Benchmark:
    """Asks for the same completions in several ways.

    Args:
        folder: for the files of answers.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer  # Here: the stub's process imports this file, too.

        self.folder = folder
        self.asks = make_asks()
        self.tokenizer = AutoTokenizer.from_pretrained(str(TEACHER))
        self.count_tokens(self.asks[0].prompt)  # The first text takes longer.
        self.cached_seconds = math.nan

    def count_tokens(self, text: str) -> int:
        """The length of a text in the teacher's tokens."""
        return len(self.tokenizer(text)["input_ids"])

    def ours(self, server: Server, concurrency: int, seconds: int, name: str = "") -> Measured:
        """The way of `make synthesize`, from no file; `name` is that of a budget, if any."""
        path = self.folder / f"{concurrency}x{seconds}{name}.sqlite"
        spending = Spending(Prices(1.0, 1.0), limit=1e6) if name else Spending(None)
        teacher = self._teacher(server, concurrency)
        teacher.check()  # As `make synthesize` does.
        with closing(TeacherAnswers(path)) as answers:
            asking = Asking(teacher, answers, spending)
            measured, cpu = timed(lambda: self._check(self._fulfil(asking)))
        assert asking.counts["asked"] == COMPLETIONS, asking.counts
        requests, peak = server.counts()
        self._from_file(teacher, path)
        assert server.counts()[0] == requests, "what is in the file was asked for again"
        return Measured(own(measured, concurrency, seconds), cpu, peak, rows_of(path))

    def plain(self, server: Server, concurrency: int, seconds: int) -> Measured:
        """What one would write first; nothing is kept."""
        measured, cpu = timed(lambda: asyncio.run(self._plain(server.url, concurrency)))
        return Measured(own(measured, concurrency, seconds), cpu, server.counts()[1])

    async def _plain(self, url: str, concurrency: int) -> None:
        limit = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=concurrency)
        async with httpx.AsyncClient(timeout=600.0, limits=limits) as client:

            async def ask(prompt: str) -> str:
                body = {
                    "model": "teacher",
                    "max_tokens": 4096,
                    "temperature": 0.9,
                    "prompt": prompt,
                }
                async with limit:
                    response = await client.post(f"{url}/completions", json=body)
                return str(response.raise_for_status().json()["choices"][0]["text"])

            texts = await asyncio.gather(*(ask(each.prompt) for each in self.asks))
        assert len(texts) == COMPLETIONS

    def _teacher(self, server: Server, concurrency: int) -> ServerTeacher:
        settings = ServerSettings(
            (server.url,), "teacher", concurrency, 600.0, 1800.0, role=TEACHING
        )
        return ServerTeacher(
            settings, SAMPLING, self.count_tokens, model="stub", chat=False, body={}
        )

    def _fulfil(self, asking: Asking) -> dict[Ask, object]:
        return {
            ask: answer
            for arrivals in asking.fulfil(self.asks, seed=0)
            for ask, answer in arrivals
        }  # fmt: skip

    def _from_file(self, teacher: ServerTeacher, path: Path) -> None:
        """All of it again, as a run does that goes on."""
        began = time.perf_counter()
        with closing(TeacherAnswers(path)) as answers:
            asking = Asking(teacher, answers, Spending(None))
            arrived = self._fulfil(asking)
        self.cached_seconds = time.perf_counter() - began
        self._check(arrived)
        assert asking.counts["cached"] == COMPLETIONS, asking.counts

    def _check(self, arrived: dict[Ask, object]) -> None:
        expected = Written(
            make_text(ANSWER_TOKENS, seed=1), None, "stop", PROMPT_TOKENS, ANSWER_TOKENS
        )
        assert list(arrived.values()) == [expected] * COMPLETIONS
        assert set(arrived) == set(self.asks)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that the work takes, and seconds of CPU of this process, all threads."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def own(measured: float, concurrency: int, seconds: int) -> float:
    """Time beyond the ideal, as a share of it."""
    ideal = math.ceil(COMPLETIONS / concurrency) * seconds
    return (measured - ideal) / ideal


def rows_of(path: Path) -> int:
    """Answers in a file, counted by another connection."""
    with closing(sqlite3.connect(path)) as database:
        [count] = database.execute("SELECT count(*) FROM written").fetchone()
    return int(count)


def measure(benchmark: Benchmark) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Ours and the plain loop, in turn."""
    ours: dict[str, Measured] = {}
    plain: dict[str, Measured] = {}
    for seconds in SECONDS:
        for concurrency in CONCURRENCIES:
            name = f"{concurrency}x{seconds}s"
            with serving(seconds) as server:
                ours[name] = benchmark.ours(server, concurrency, seconds)
            logger.info("%s: %s; load %.1f", name, ours[name], os.getloadavg()[0])
            if seconds == SECONDS[0]:
                with serving(seconds) as server:
                    plain[name] = benchmark.plain(server, concurrency, seconds)
                logger.info("%s: plain: %s", name, plain[name])
    with serving(1) as server:
        ours["64x1s_budget"] = benchmark.ours(server, 64, 1, "budget")
    logger.info("64x1s_budget: %s", ours["64x1s_budget"])
    return ours, plain


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpx2"):  # The openai package has the second one.
        logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Path(folder))
        ours, plain = measure(benchmark)
    milliseconds = 1000.0 / COMPLETIONS
    result = {
        **{f"own_{name}": each.own for name, each in ours.items()},
        **{f"plain_{name}": each.own for name, each in plain.items()},
        "cpu_ms_per_answer": milliseconds * ours["64x1s"].cpu,
        "plain_cpu_ms_per_answer": milliseconds * plain["64x1s"].cpu,
        "count_ms_per_prompt": milliseconds * (ours["64x1s_budget"].cpu - ours["64x1s"].cpu),
        "cached_seconds": benchmark.cached_seconds,
        **{f"peak_{number}": peak(ours, number) for number in CONCURRENCIES},
        "answers_in_file": min(each.in_file for each in ours.values()),
    }
    sys.stdout.write(json.dumps({key: _rounded(value) for key, value in result.items()}) + "\n")


def peak(measured: dict[str, Measured], concurrency: int) -> int:
    """The most requests at once, of the runs that were allowed so many."""
    names: Sequence[str] = [name for name in measured if name.startswith(f"{concurrency}x")]
    return max(measured[name].peak for name in names)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")


if __name__ == "__main__":
    main()

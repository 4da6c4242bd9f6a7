"""Requests to OpenAI-compatible servers: bounded in number and time, repeated where that helps.

Whatever a server does, each request ends before the deadline, in an answer or in a reason why
there is none. Keys are read from the environment when a request is made, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx
import openai

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.run.errors import Problems, UserError

T = TypeVar("T")
K = TypeVar("K")

# Not the global generator: waiting for a server must not change what a run draws at random.
_JITTER = random.SystemRandom()
_LONGEST_QUOTE = 300


@dataclass(frozen=True)
class ServerRole:
    """What servers are for, in the words of messages.

    Attributes:
        section: the keys of the configuration that say where they are.
        started_by: the command that starts one.
        malformed: what an answer has to be.
        refused: what may help where a request is refused (status 400).
    """

    section: str
    started_by: str
    malformed: str
    refused: str


JUDGING = ServerRole(
    "judge.server",
    "make serve-judge",
    malformed="the answer lacks the log-probabilities that were asked for; it has to be a server "
    "of OpenAI-compatible completions with logprobs",
    refused="a server other than vLLM may need judge.letters=top_logprobs",
)


@dataclass(frozen=True)
class ServerSettings:
    """Where the servers are, and how much is asked of them.

    Attributes:
        urls: base URLs such as `http://127.0.0.1:8000/v1`, all with the same model.
        model: the name under which they serve it.
        concurrency: requests under way at once, of all processes together.
        request_timeout: seconds from sending a request to the last byte of its answer.
        deadline: seconds for all requests of one call of `ask`, or for each request of `ask_each`,
            retries included.
        key_variable: the environment variable with the key; `None` for servers that ask for none.
        num_processes: processes that share the concurrency.
        max_retries: how often a failed request is repeated.
        first_wait: seconds before the first retry, doubled for each further one, with jitter.
        longest_wait: seconds that these waits don't exceed; a server's Retry-After may.
        dead_after: failures in a row after which a server is passed over, if there is another.
        dead_for: seconds until it is tried again.
        role: what the servers are for, in the words of messages.

    Raises:
        UserError: an address that is none, or that holds a key.
    """

    urls: tuple[str, ...]
    model: str
    concurrency: int
    request_timeout: float
    deadline: float
    key_variable: str | None = None
    num_processes: int = 1
    max_retries: int = 4
    first_wait: float = 0.5
    longest_wait: float = 16.0
    dead_after: int = 3
    dead_for: float = 15.0
    role: ServerRole = JUDGING

    def __post_init__(self) -> None:
        problems = address_problems(self.role.section, "urls", self.urls)
        if not self.urls:
            problems = [
                f"{self.role.section}.urls: found none, expected [http://127.0.0.1:8000/v1]"
            ]
        Problems(problems).raise_if_any()


def address_problems(section: str, key: str, urls: Sequence[str]) -> list[str]:
    """What is wrong with base URLs. They aren't repeated: an address may hold a key."""
    problems = []
    for number, url in enumerate(urls):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problems.append(f"{section}.{key}[{number}]: expected http://<host>:<port>/v1")
        elif parts.username or parts.password or parts.query:
            problems.append(
                f"{section}.{key}[{number}]: found a user, a password or a query, which would "
                "reach files and logs; put the key into an environment variable and name it by "
                f"{section}.key_variable"
            )
    return problems


@dataclass(frozen=True)
class Unanswered:
    """Why there is no answer: timeout, connection, status_429, malformed, too_long, deadline, …"""

    reason: str


@dataclass(frozen=True)
class Request(Generic[T]):
    """A completion to ask for.

    Attributes:
        key: requests with the same key go to the same server, as long as it lives.
        body: what is sent, but for the name of the model.
        read: makes the answer of the bytes of a response; raises ValueError where it can't.
        tokens: of the prompt and the answer, for the throughput; 0 where the server counts them.
        path: of the API, behind the base URL.
    """

    key: str
    body: Mapping[str, object]
    read: Callable[[bytes], T | Unanswered]
    tokens: int = 0
    path: str = "/completions"


@dataclass(frozen=True)
class _Failure:
    """A request that went wrong; `status` is `None` where there was no HTTP answer."""

    reason: str
    status: int | None = None
    retry_after: float | None = None
    quote: str = ""

    @property
    def is_of_the_server(self) -> bool:
        """Whether the server, and not the request, is to blame."""
        return self.reason in ("timeout", "connection") or (self.status or 0) >= 500

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered later."""
        return self.is_of_the_server or self.status in (408, 429)


@dataclass
class _Server:
    """What is known of a server's health, from one call to the next."""

    url: str
    failures_in_a_row: int = 0
    dead_until: float = 0.0

    def rank_for(self, key: str) -> bytes:
        """Rendezvous hashing: a key's servers in an order that the loss of one doesn't change."""
        return hashlib.sha256(f"{self.url}\n{key}".encode()).digest()


class CompletionsClient:
    """Asks for completions of one or several servers that serve the same model.

    Raises:
        UserError: the environment variable for the key isn't set.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._servers = [_Server(url.rstrip("/")) for url in settings.urls]
        read_key(settings.role.section, settings.key_variable)

    def ask(
        self, requests: Sequence[Request[T]], measurements: Measurements
    ) -> list[T | Unanswered]:
        """The answer of each request, in their order, or why there is none.

        Returns before the deadline, whatever the servers do. Requests, retries and latencies are
        added to the measurements.
        """
        return run_in_own_loop(self._ask(requests, measurements)) if requests else []

    def ask_each(
        self,
        pull: Callable[[], tuple[K, Request[T]] | None],
        take: Callable[[K, T | Unanswered], None],
        measurements: Measurements,
    ) -> None:
        """Ask for one request after another, and hand each answer over as it arrives.

        As many are under way at once as the settings allow, and no more are held: for work that
        takes hours. Both functions are called from the thread that calls this.

        Args:
            pull: the next request with whatever it is to be known by, `None` where there is none at
                the moment. It is asked again whenever an answer has come, until nothing is under
                way and it still gives none.
            take: is given what the request is known by, and its answer or why there is none.
            measurements: requests, retries and latencies are added to them.
        """
        run_in_own_loop(self._ask_each(pull, take, measurements))

    def check(self, request: Request[T]) -> None:
        """Ask each server once, without retries, before anything depends on it.

        Raises:
            UserError: for each server that doesn't answer as expected its URL, what was found and
                how to mend it.
        """
        problems = Problems()
        for problem in run_in_own_loop(self._problems(request)):
            problems.add(problem)
        problems.raise_if_any()

    async def _ask(
        self, requests: Sequence[Request[T]], measurements: Measurements
    ) -> list[T | Unanswered]:
        async with _Call(self.settings, self._servers, measurements) as call:
            by_then = partial(call.answer, deadline=call.now() + self.settings.deadline)
            answers = await asyncio.gather(*map(by_then, requests))
        return list(answers)

    async def _ask_each(
        self,
        pull: Callable[[], tuple[K, Request[T]] | None],
        take: Callable[[K, T | Unanswered], None],
        measurements: Measurements,
    ) -> None:
        async with _Call(self.settings, self._servers, measurements) as call:
            under_way = 0

            def fill() -> None:
                nonlocal under_way
                while under_way < call.slots and (pulled := pull()) is not None:
                    under_way += 1
                    workers.create_task(work(*pulled))

            async def work(known_by: K, request: Request[T]) -> None:
                nonlocal under_way
                answer = await call.answer(request, call.now() + self.settings.deadline)
                under_way -= 1
                take(known_by, answer)
                fill()

            try:
                async with asyncio.TaskGroup() as workers:
                    fill()
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _problems(self, request: Request[T]) -> list[str]:
        problems = []
        async with _Call(self.settings, self._servers, Measurements()) as call:
            for server in self._servers:
                outcome = await call.send(server, request, is_retry=False)
                if isinstance(outcome, _Failure):
                    served = await call.served_models(server) if outcome.status == 404 else []
                    problems.append(_in_words(server.url, self.settings, outcome, served))
        return problems


class _Call:
    """One call of the client: connections and a deadline, in the event loop that runs it."""

    def __init__(
        self, settings: ServerSettings, servers: Sequence[_Server], measurements: Measurements
    ) -> None:
        self._settings = settings
        self._servers = servers
        self._measurements = measurements
        self.slots = max(1, settings.concurrency // settings.num_processes)
        self._free_slots = asyncio.Semaphore(self.slots)
        self._key = read_key(settings.role.section, settings.key_variable)
        self._connections: dict[str, openai.AsyncOpenAI] = {}
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> _Call:
        for server in self._servers:
            self._connections[server.url] = await self._exit.enter_async_context(
                openai.AsyncOpenAI(
                    base_url=server.url,
                    # Without one, the package would send OPENAI_API_KEY wherever the URL points.
                    api_key=self._key or "none",
                    timeout=self._settings.request_timeout,
                    max_retries=0,
                )
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exit.aclose()

    def now(self) -> float:
        """The time of the event loop, in seconds, which deadlines are moments of."""
        return asyncio.get_running_loop().time()

    async def answer(self, request: Request[T], deadline: float) -> T | Unanswered:
        """The answer, or the reason why there is none by the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._answer_with_retries(request, deadline)
        except TimeoutError:
            return Unanswered("deadline")

    async def send(
        self, server: _Server, request: Request[T], *, is_retry: bool
    ) -> T | Unanswered | _Failure:
        """One request, once."""
        self._measurements.requests += 1
        self._measurements.retries += is_retry
        started = time.perf_counter()
        try:
            # The package's own timeout starts again with every byte; this one doesn't.
            async with asyncio.timeout(self._settings.request_timeout):
                response = await self._connections[server.url].post(
                    request.path,
                    cast_to=httpx.Response,
                    body={"model": self._settings.model, **request.body},
                )
            return request.read(response.content)
        except (TimeoutError, openai.APITimeoutError):
            return _Failure("timeout")
        except openai.APIConnectionError:
            return _Failure("connection")
        except openai.APIStatusError as error:
            return self._failure_of(error)
        except ValueError:
            return _Failure("malformed")
        finally:
            self._measurements.latencies.append(time.perf_counter() - started)

    async def served_models(self, server: _Server) -> list[str]:
        """The names of the models that a server says it has; empty where it doesn't say."""
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return [
                    model.id for model in (await self._connections[server.url].models.list()).data
                ]
        except (TimeoutError, openai.OpenAIError, ValueError, TypeError, AttributeError):
            return []

    async def _answer_with_retries(self, request: Request[T], deadline: float) -> T | Unanswered:
        failures: Counter[str] = Counter()
        attempt = 0
        while True:
            async with self._free_slots:
                server = self._choose(request.key, failures)
                outcome = await self.send(server, request, is_retry=attempt > 0)
            self._note_health(server, outcome)
            if not isinstance(outcome, _Failure):
                return outcome
            failures[server.url] += outcome.is_of_the_server
            wait = self._wait(attempt, outcome)
            if outcome.is_of_the_server and not failures[self._choose(request.key, failures).url]:
                wait = 0.0  # Another server hasn't been asked yet.
            attempt += 1
            gives_up = attempt > self._settings.max_retries or not outcome.may_pass
            if gives_up or self.now() + wait >= deadline:
                return Unanswered(outcome.reason)
            await asyncio.sleep(wait)

    def _choose(self, key: str, failures: Counter[str]) -> _Server:
        """The key's own server, or the next in its order that lives and hasn't failed here."""
        now = time.monotonic()
        return min(
            self._servers,
            key=lambda each: (each.dead_until > now, failures[each.url], each.rank_for(key)),
        )

    def _note_health(self, server: _Server, outcome: object) -> None:
        if isinstance(outcome, _Failure) and outcome.is_of_the_server:
            server.failures_in_a_row += 1
            if server.failures_in_a_row >= self._settings.dead_after:
                server.dead_until = time.monotonic() + self._settings.dead_for
        else:
            server.failures_in_a_row = 0
            server.dead_until = 0.0

    def _wait(self, attempt: int, failure: _Failure) -> float:
        """Seconds before the next attempt, with jitter, so that requests don't come in waves."""
        longest = min(self._settings.longest_wait, self._settings.first_wait * 2.0**attempt)
        return (failure.retry_after or 0.0) + _JITTER.uniform(0.5, 1.0) * longest

    def _failure_of(self, error: openai.APIStatusError) -> _Failure:
        status = error.status_code
        # The fields by which vLLM and OpenAI say that a prompt exceeds the context.
        too_long = error.param == "input_tokens" or error.code == "context_length_exceeded"
        said = error.body.get("message") if isinstance(error.body, dict) else None
        quote = str(said or "")
        if self._key:
            quote = quote.replace(self._key, "<key>")
        return _Failure(
            "too_long" if status == 400 and too_long else f"status_{status}",
            status,
            _retry_after(error.response.headers.get("retry-after")),
            " ".join(quote.split())[:_LONGEST_QUOTE],
        )


def run_in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, from code that isn't async.

    In this thread, or in one of its own where an event loop is already running in this one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work).result()


def read_key(section: str, variable: str | None) -> str | None:
    """The key in an environment variable; `None` where none is named.

    Raises:
        UserError: the variable isn't set, or holds what can't be a key. The value isn't repeated.
    """
    if variable is None:
        return None
    if not variable.isidentifier():
        # It may be the key itself, given by mistake: it isn't repeated.
        raise UserError(
            f"{section}.key_variable: found what can't be a name, expected that of an "
            "environment variable which holds the key"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"{section}.key_variable: the environment variable {variable} isn't set; set it to "
            "the server's key"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{section}.key_variable: the value of {variable} can't be sent in a header; "
            "expected printable ASCII characters"
        )
    return key


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; `None` where it is neither.

    What isn't a moment to come counts as none.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if 0.0 < seconds < float("inf") else None


def _in_words(url: str, settings: ServerSettings, failure: _Failure, served: Sequence[str]) -> str:
    """A problem for a person: where, what was found, how to mend it."""
    reasons = {"connection": "no server", "timeout": "no answer", "malformed": "another answer"}
    found = (
        f"status {failure.status}"
        if failure.status
        else reasons.get(failure.reason, failure.reason)
    )
    if failure.quote:
        found += f" ({failure.quote})"
    names = f"it serves {', '.join(served)}" if served else "does the URL end as it should, in /v1?"
    key, role = settings.key_variable, settings.role
    remedies: dict[int | str | None, str] = {
        "connection": f"start one with {role.started_by}, or "
        f"give the right address by {role.section}.urls",
        "timeout": f"none within {settings.request_timeout:g} s; is it still loading, or "
        f"{role.section}.request_timeout too short?",
        "malformed": role.malformed,
        400: f"it refused the request; {role.refused}",
        401: f"the key in {key} was refused" if key else "it asks for a key: put it into an "
        f"environment variable and name that by {role.section}.key_variable",
        403: f"the key in {key} may not do this" if key else "it asks for a key: put it into an "
        f"environment variable and name that by {role.section}.key_variable",
        404: f"it doesn't know the model {settings.model!r} or the path; {names}",
    }  # fmt: skip
    remedy = remedies.get(failure.status or failure.reason, "see the server's own log")
    return f"{url}: found {found}: {remedy}"

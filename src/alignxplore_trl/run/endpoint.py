"""OpenAI-compatible servers: every request ends, in an answer or in a reason why there is none."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2  # What the openai package is built on.
import openai

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

T = TypeVar("T")
_DOWN_FOR = 30.0
_REMEDIES = {
    "connection": "start a server there (make serve-judge, make serve-teacher), or correct `urls`",
    "timeout": "is it still loading, or is `timeout` too short?",
    "malformed": "should the URL end in /v1?",
    "status_400": "servers other than vLLM may need letters=top_logprobs (a judge), or fields "
    "taken out by `body` (a writer)",
    "status_401": "put its key into an environment variable, and name that by `key_variable`",
    "status_404": "should the URL end in /v1, and is `served_as` a model that it serves?",
}


@dataclass(frozen=True)
class Request(Generic[T]):
    """What is sent to `path`, beside the model's name, and how its response's JSON is read.

    Requests with the same key go to the same server while it lives, for its prefix cache. `read`
    raises ValueError, LookupError, TypeError or AttributeError where the JSON is no answer.
    """

    key: str
    body: Mapping[str, object]
    read: Callable[[Any], T]
    path: str = "/completions"


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer, and what the server said.

    The reason is timeout, connection, deadline, too_long, malformed or status_<number>.
    """

    reason: str
    said: str = ""


class Endpoint:
    """One or several servers of one model.

    The openai package asks again where that may help; then the next server is asked, and one that
    failed is asked last for half a minute. Servers on this machine are asked past any proxy. The
    first refusal of each reason is said in the server's words; `counts` has all of them by reason.

    Args:
        urls: base URLs such as `http://127.0.0.1:8000/v1`.
        served_as: the name under which they serve the model.
        key_variable: the environment variable that holds the key; `None` where none is needed.
        concurrency: requests under way at once, of all training processes together.
        timeout: seconds from sending a request to the last byte of its answer.
        deadline: seconds for all requests of a call, or for each one, retries included.

    Raises:
        UserError: an address is none or holds a key, or the variable isn't set.
    """

    def __init__(
        self,
        urls: Sequence[str],
        served_as: str,
        key_variable: str | None = None,
        concurrency: int = 64,
        timeout: float = 120.0,
        deadline: float = 900.0,
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self.served_as = served_as
        self.concurrency = max(1, concurrency // int(os.environ.get("WORLD_SIZE", "1")))
        self.timeout, self.deadline = timeout, deadline
        self.counts: Counter[str] = Counter()
        self._down: dict[str, float] = {}
        self._said: set[str] = set()
        # Without a key the package would send OPENAI_API_KEY wherever the URL points.
        self._key = os.environ.get(key_variable, "").strip() if key_variable else "no-key"
        # What was given isn't repeated: it may be, or hold, a key.
        if not urls or not all(re.fullmatch(r"https?://[^@?\s]+", url) for url in urls):
            raise UserError("urls: expected http://<host>:<port>/v1, without user or password")
        if not self._key:
            raise UserError("key_variable: expected the name of a variable that holds the key")

    def ask(
        self,
        requests: Sequence[Request[T]],
        *,
        each: bool = False,
        taken: Callable[[int, T | Refusal], None] | None = None,
    ) -> list[T | Refusal]:
        """Answers in the order of the requests.

        With `each` the deadline is for each request, from when its turn comes. `taken` is called
        with the number of a request and its outcome as soon as that is there.
        """
        work = self._ask(requests, each, taken)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        with ThreadPoolExecutor(max_workers=1) as executor:  # In a notebook.
            return executor.submit(asyncio.run, work).result()

    async def _ask(
        self,
        requests: Sequence[Request[T]],
        each: bool,
        taken: Callable[[int, T | Refusal], None] | None,
    ) -> list[T | Refusal]:
        # Connections and semaphores belong to one event loop.
        slots, end = asyncio.Semaphore(self.concurrency), time.monotonic() + self.deadline
        clients = {
            url: openai.AsyncOpenAI(
                base_url=url,
                api_key=self._key,
                max_retries=4 // len(self.urls),
                http_client=_Client(self.timeout, trust_env=not _is_loopback(url)),
            )
            for url in self.urls
        }

        async def answer(number: int, request: Request[T]) -> T | Refusal:
            outcome: T | Refusal
            try:
                async with asyncio.timeout(None if each else end - time.monotonic()), slots:
                    async with asyncio.timeout(self.deadline):
                        outcome = await self._try_servers(clients, request)
            except TimeoutError:
                outcome = self._refuse(self.urls[0], "deadline", f"none in {self.deadline:g} s")
            if isinstance(outcome, Refusal):
                self.counts[outcome.reason] += 1
            if taken is not None:
                taken(number, outcome)
            return outcome

        try:
            return await asyncio.gather(*(answer(*numbered) for numbered in enumerate(requests)))
        finally:
            for client in clients.values():
                await client.close()

    async def _try_servers(
        self, clients: Mapping[str, openai.AsyncOpenAI], request: Request[T]
    ) -> T | Refusal:
        """Rendezvous hashing: the order of a key's servers stays when one of them is lost."""
        left = {hashlib.sha256(f"{url} {request.key}".encode()).digest(): url for url in self.urls}
        while True:
            now = time.monotonic()
            place = min(left, key=lambda own: (self._down.get(left[own], 0.0) > now, own))
            url = left.pop(place)
            outcome = await self._send(url, clients[url], request)
            if not isinstance(outcome, Refusal):
                self._down.pop(url, None)
            elif outcome.reason.startswith(("timeout", "connection", "status_429", "status_5")):
                self._down[url] = now + _DOWN_FOR
                if left:
                    continue
            return outcome

    async def _send(self, url: str, client: openai.AsyncOpenAI, request: Request[T]) -> T | Refusal:
        body = {"model": self.served_as, **request.body}
        try:
            response = await client.post(request.path, cast_to=httpx2.Response, body=body)
        except openai.APITimeoutError:
            return self._refuse(url, "timeout", f"none in {self.timeout:g} s")
        except openai.APIConnectionError as error:
            return self._refuse(url, "connection", repr(error.__cause__))
        except openai.APIStatusError as error:
            # The fields by which vLLM and OpenAI say that a prompt exceeds the context.
            long = error.param == "input_tokens" or error.code == "context_length_exceeded"
            reason = "too_long" if long else f"status_{error.status_code}"
            return self._refuse(url, reason, error.response.text)
        try:
            return request.read(json.loads(response.content))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return self._refuse(url, "malformed", f"{error}; it sent {response.text}")

    def _refuse(self, url: str, reason: str, said: str) -> Refusal:
        said = " ".join(said.split()).replace(self._key, "<key>")[:300]
        if reason not in self._said:
            self._said.add(reason)
            place, proxy = urlsplit(url), getproxies().get(urlsplit(url).scheme)
            if proxy and not _is_loopback(url) and not proxy_bypass(place.hostname or ""):
                said = f"through the environment's proxy {urlsplit(proxy).hostname}: {said}"
            say(f"{url}: no answer, {reason} ({said}); {_REMEDIES.get(reason, 'see its log')}")
        return Refusal(reason, said)


class _Client(openai.DefaultAsyncHttpxClient):
    """Bounds the time to the last byte, and finds errors that are sent as a success."""

    def __init__(self, seconds: float, trust_env: bool) -> None:
        super().__init__(trust_env=trust_env)
        self._seconds = seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, **options)
                await response.aread()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("too slow", request=request) from error
        if response.status_code == 200:
            response.status_code = _true_status(response.content)
        return response


def _true_status(content: bytes) -> int:
    """That of an error which a router passes on in the body of a success: 200 if there is none."""
    try:
        body = json.loads(content)
        choice = (body.get("choices") or [{}])[0]
        error = body.get("error") or choice.get("error") or {}
        if not error and choice.get("finish_reason") != "error":
            return 200
        code, kind = (str(error.get(name)) for name in ("code", "type"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 200
    if code in {str(number) for number in range(400, 600)}:
        return int(code)
    return 429 if "rate_limit" in code + kind else 400 if "invalid_request" in kind else 502


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")

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
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2  # What the openai package is built on.
import openai

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

T = TypeVar("T")
# Reasons for which the next server is asked, and this one last for some seconds.
_PASSING = ("timeout", "connection", "status_429", "status_5")
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
        timeout: seconds that a server may be silent.
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
        slots = asyncio.Semaphore(self.concurrency)
        end = None if each else asyncio.get_running_loop().time() + self.deadline

        async def answer(number: int, request: Request[T]) -> T | Refusal:
            outcome: T | Refusal
            try:
                async with asyncio.timeout_at(end), slots, asyncio.timeout(self.deadline):
                    outcome = await self._try_servers(clients, request)
            except TimeoutError:
                outcome = self._refuse(self.urls[0], "deadline", f"none in {self.deadline:g} s")
            if isinstance(outcome, Refusal):
                self.counts[outcome.reason] += 1
            if taken is not None:
                taken(number, outcome)
            return outcome

        async with AsyncExitStack() as opened:
            clients = {
                url: await opened.enter_async_context(self._client(url)) for url in self.urls
            }
            return await asyncio.gather(*(answer(*numbered) for numbered in enumerate(requests)))

    def _client(self, url: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=self._key,
            timeout=self.timeout,
            max_retries=4 // len(self.urls),
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=not _is_loopback(url), event_hooks={"response": [_find_error]}
            ),
        )

    async def _try_servers(
        self, clients: Mapping[str, openai.AsyncOpenAI], request: Request[T]
    ) -> T | Refusal:
        """Rendezvous hashing: the order of a key's servers stays when one of them is lost."""

        def order(url: str) -> tuple[bool, bytes]:
            place = hashlib.sha256(f"{url} {request.key}".encode()).digest()
            return self._down.get(url, 0.0) > time.monotonic(), place

        for url in sorted(self.urls, key=order):
            outcome = await self._send(url, clients[url], request)
            if not (isinstance(outcome, Refusal) and outcome.reason.startswith(_PASSING)):
                break
            self._down[url] = time.monotonic() + _DOWN_FOR
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
            return request.read(response.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
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


async def _find_error(response: httpx2.Response) -> None:
    """Give a success the status of an error that a router passes on in its body."""
    content = await response.aread()
    try:
        body = json.loads(content)
        choice = (body.get("choices") or [{}])[0]
        error = body.get("error") or choice.get("error") or {}
        if response.status_code == 200 and (error or choice.get("finish_reason") == "error"):
            wrong = "invalid_request" in str(error.get("type"))
            code = re.fullmatch(r"[45]\d\d", str(error.get("code")))
            response.status_code = int(code[0]) if code else 400 if wrong else 502
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # `read` says what is wrong with it.


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")

"""A small HTTP server in a thread whose replies a test decides, request by request."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What is sent back: a JSON value or bytes, after a pause, whole or up to `cut` bytes."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    cut: int | None = None


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        """A client that gives up is no error."""


class StubServer:
    """Asks `plan(body, attempt)` what to reply; `attempt` counts equal prompts from 0."""

    def __init__(self, plan: Callable[[dict[str, Any], int], Reply]) -> None:
        self.received: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        attempts: Counter[str] = Counter()
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = json.dumps(body.get("prompt", body.get("messages")))
                with lock:
                    server.received.append(body)
                    server.headers.append(dict(self.headers))
                    attempt = attempts[prompt]
                    attempts[prompt] += 1
                try:
                    self.reply(plan(body, attempt))
                except ConnectionError:
                    self.close_connection = True

            def reply(self, reply: Reply) -> None:
                time.sleep(reply.pause)
                whole = isinstance(reply.body, bytes)
                body = reply.body if whole else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if reply.cut is not None:
                    self.wfile.write(body[: reply.cut])
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                else:
                    self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Nothing on stderr."""

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> StubServer:
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

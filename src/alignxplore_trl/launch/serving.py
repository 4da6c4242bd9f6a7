"""A vLLM server as a child process: started with recorded flags, awaited, stopped as a whole."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from alignxplore_trl.launch.config import (
    Serve,
    ServeJudgeConfig,
    ServeRolloutsConfig,
    ServeTeacherConfig,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, write_json_atomic
from alignxplore_trl.run.progress import say
from alignxplore_trl.run.signals import ask_for_sigterm_when_parent_ends

ROOT = Path(__file__).resolve().parents[3]
_ANY_HOST = ("0.0.0.0", "::")
_SECONDS_TO_STOP = 30.0
_LAST_LINES = 15
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve_until_interrupted(
    config: ServeJudgeConfig | ServeTeacherConfig | ServeRolloutsConfig,
    folder: RunFolder,
    hint: str,
) -> None:
    """Serve a model until Ctrl-C, or until the process that started this one is gone.

    Args:
        config: of the recipe.
        folder: where the server's command and log are kept.
        hint: the make command that uses the server, with `{scale}` where this one's goes, `{url}`
            where its base URL goes, or `{address}`, the same without a path.

    Raises:
        UserError: the server can't be started, or ended by itself.
    """
    recipe, serve = config.recipe, config.serve
    _stop_with_parent()
    try:
        with VllmServer(serve, config.seed, folder.path) as server:
            say(f"{recipe}: loading {serve.model}; its log: {server.log}")
            server.wait_until_healthy()
            say(f"{recipe}: {server.url} serves {serve.name}; use it with")
            address = server.address_for_clients
            say(f"  {hint.format(scale=config.scale.name, url=f'{address}/v1', address=address)}")
            say(f"{recipe}: Ctrl-C stops it")
            server.process.wait()
            raise UserError(server.last_words())
    except KeyboardInterrupt:
        say(f"{recipe}: stopped")


def vllm_command(python: str | Path, serve: Serve, seed: int) -> list[str]:
    """The command line of the server: the one thing that decides how it runs.

    Raises:
        UserError: the flags hold a key, which would reach files.
    """
    flags = [flag if isinstance(flag, str) else json.dumps(flag) for flag in serve.flags]
    if any(flag.partition("=")[0] == "--api-key" for flag in flags):
        raise UserError(
            "serve.flags: found --api-key, which would be written into the run folder; put the key "
            "into the environment variable VLLM_API_KEY, which vLLM reads"
        )
    length = [] if serve.max_model_len is None else ["--max-model-len", str(serve.max_model_len)]
    return [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", serve.model,
        "--served-model-name", serve.name,
        "--host", serve.host,
        "--port", str(serve.port),
        "--dtype", serve.dtype,
        "--seed", str(seed),
        # The model's own sampling defaults are not ours.
        "--generation-config", "vllm",
        "--logprobs-mode", serve.logprobs_mode,
        *length,
        *flags,
    ]  # fmt: skip


def vllm_python(serve: Serve) -> Path:
    """The Python that runs the server.

    Raises:
        UserError: it isn't there.
    """
    path = Path(serve.python) if serve.python else ROOT / ".venv-vllm" / "bin" / "python"
    if not path.is_file():
        raise UserError(
            f"serve.python: {path} isn't there; make it with: make .venv-vllm/stamp, or name a "
            "Python that has vLLM"
        )
    return path


class VllmServer:
    """A server and its process group, in a `with` block that stops both.

    The group holds the server and the processes it starts itself, and nothing else. Where this
    process dies without a word (SIGKILL), the kernel tells the server to end.

    Args:
        serve: what is served, and where.
        seed: of the server.
        folder: `server.json` (command, environment, address) and `server.log` are written there.

    Raises:
        UserError: there is no vLLM, the flags hold a key, or the port is in use.
    """

    def __init__(self, serve: Serve, seed: int, folder: Path) -> None:
        self.serve = serve
        self.folder = folder
        self.command = vllm_command(vllm_python(serve), serve, seed)
        check_port(serve.host, serve.port)

    @property
    def address(self) -> str:
        """Where it listens, for clients on this machine."""
        return f"http://{_reachable(self.serve.host)}:{self.serve.port}"

    @property
    def url(self) -> str:
        """The base URL of its API, for clients on this machine."""
        return f"{self.address}/v1"

    @property
    def address_for_clients(self) -> str:
        """Where it listens; for those on other machines, if it listens to them."""
        host = socket.gethostname() if self.serve.host in _ANY_HOST else self.serve.host
        return f"http://{host}:{self.serve.port}"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "server.log"

    def __enter__(self) -> VllmServer:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.serve.environment},
                start_new_session=True,
                preexec_fn=ask_for_sigterm_when_parent_ends,
            )
        recorded = {"command": self.command, "environment": self.serve.environment}
        write_json_atomic(
            self.folder / "server.json",
            {**recorded, "url": self.url, "process": self.process.pid},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_until_healthy(self) -> None:
        """Return when it answers.

        Raises:
            UserError: it ended, or wasn't ready in time; with the end of its log.
        """
        give_up = time.monotonic() + self.serve.start_timeout
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise UserError(self.last_words())
            if time.monotonic() > give_up:
                raise UserError(
                    f"serve.start_timeout: not healthy after {self.serve.start_timeout} s; give it "
                    f"longer, or see {self.log}"
                )
            time.sleep(0.5)

    def is_healthy(self) -> bool:
        """Whether it answers `/health`."""
        connection = http.client.HTTPConnection(
            _reachable(self.serve.host), self.serve.port, timeout=5
        )
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def last_words(self) -> str:
        """Of a server that ended by itself: its status and the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        told = "\n".join(f"      {line}" for line in lines)
        return f"the server ended with status {self.process.poll()}; {self.log} ends with:\n{told}"

    def stop(self) -> None:
        """End the server and what it started: asked first, then killed."""
        with _deaf():
            _signal_group(self.process.pid, signal.SIGTERM)
            give_up = time.monotonic() + _SECONDS_TO_STOP
            while _group_is_there(self.process.pid) and time.monotonic() < give_up:
                self.process.poll()  # A group is there until its dead have been taken note of.
                time.sleep(0.1)
            _signal_group(self.process.pid, signal.SIGKILL)
            self.process.wait()


def check_port(host: str, port: int, key: str = "serve.port") -> None:
    """Refuse an address where something listens already.

    Args:
        host: of the address.
        port: of the address.
        key: the configuration's key of the port.

    Raises:
        UserError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{key}: {host}:{port} can't be had ({error}); stop what listens there, or "
                f"choose another: {key}={port + 1}"
            ) from error


def _stop_with_parent() -> None:
    """Let SIGTERM, SIGHUP and the end of the parent end this process as Ctrl-C does.

    So `with` blocks are left in order, whoever stops it.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    ask_for_sigterm_when_parent_ends()


@contextmanager
def _deaf() -> Iterator[None]:
    """Within it, being told once more to stop doesn't interrupt the stopping."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals are for the main thread.
        return
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in _STOP_SIGNALS}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in _ANY_HOST else host


def _group_is_there(group: int) -> bool:
    return _signal_group(group, 0)


def _signal_group(group: int, sign: int) -> bool:
    """Send a signal to a process group; whether there was anyone to get it."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True

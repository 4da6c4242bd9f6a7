"""Starting a server, short of vLLM itself: what is run, and what is refused before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import (
    Serve,
    ServeJudgeConfig,
    ServeRolloutsConfig,
    read_values,
)
from alignxplore_trl.launch.serving import VllmServer, vllm_command, vllm_python
from alignxplore_trl.run.errors import Problems, UserError

HINTS = {
    "serve_judge": "make rl-streaming SCALE=tiny JUDGE=server ARGS='judge.server.urls=[{url}]'",
    "serve_rollouts": "make rl-streaming SCALE=tiny ARGS='trainer.use_vllm=true "
    "trainer.vllm_mode=server trainer.vllm_server_base_url={address}'",
    "serve_teacher": "make synthesize SCALE=tiny TEACHER=server ARGS='teacher.server.urls=[{url}]'",
}
# Stands where vLLM would, with a child of its own: `python -m vllm.entrypoints…` runs it.
FAKE = """#!{python}
import http.server, subprocess, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
if "--fails" in sys.argv:
    sys.exit("no such flag: --fails")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """The configuration that ships, on a free port, with a stand-in for vLLM's Python."""
    python = tmp_path / "python"
    python.write_text(FAKE.format(python=sys.executable))
    python.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problems = Problems()
    values = {**compose_recipe("serve_judge", []), "run_name": "x"}
    config = read_values(ServeJudgeConfig, values, problems)
    assert config is not None
    return replace(config.serve, python=str(python), port=port, start_timeout=60)


def is_alive(process: int) -> bool:
    """Whether it runs; the dead whom nobody has buried don't."""
    try:
        return "(Z)" not in Path(f"/proc/{process}/status").read_text().replace("Z (zombie)", "(Z)")
    except FileNotFoundError:
        return False


def wait_until_gone(processes: list[int], seconds: float = 20.0) -> list[int]:
    give_up = time.monotonic() + seconds
    while (left := [p for p in processes if is_alive(p)]) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left


def child_of(log: Path) -> int:
    return int(log.read_text().split("child ")[1].split()[0])


def test_each_recipe_serves_its_own_model_at_its_own_port() -> None:
    judge, rollouts, teacher = (compose_recipe(recipe, []) for recipe in sorted(HINTS))
    assert judge["serve"]["model"] == judge["serve"]["name"] == judge["model"]["judge"]
    assert teacher["serve"]["model"] == teacher["serve"]["name"] == teacher["model"]["teacher"]
    assert rollouts["serve"]["model"] == rollouts["model"]["backbone"]
    ports = [each["serve"]["port"] for each in (judge, teacher, rollouts)]
    assert ports == [8000, 8002, 8004]
    own = dict.fromkeys(("model", "name", "port"))
    assert {**judge["serve"], **own} == {**teacher["serve"], **own}


def test_the_command_says_how_the_server_runs(serve: Serve) -> None:
    longer = replace(serve, max_model_len=4096, flags=["--tensor-parallel-size", "2"])
    command = vllm_command("python", longer, seed=3)
    assert command[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given["--model"] == given["--served-model-name"] == serve.model
    assert given["--max-model-len"] == "4096"
    assert given["--tensor-parallel-size"] == "2"
    assert given["--generation-config"] == "vllm"
    assert "--max-model-len" not in vllm_command("python", serve, seed=0)


@pytest.mark.parametrize("flags", [["--api-key", "sk-1"], ["--api-key=sk-1"]])
def test_a_key_among_the_flags_is_refused(serve: Serve, flags: list[str]) -> None:
    with pytest.raises(UserError, match="VLLM_API_KEY") as error_info:
        vllm_command("python", replace(serve, flags=flags), seed=0)
    assert "sk-1" not in str(error_info.value)


def test_a_server_is_recorded_awaited_and_stopped_with_its_children(
    serve: Serve, tmp_path: Path
) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with VllmServer(serve, 0, tmp_path) as server:
        server.wait_until_healthy()
        assert server.is_healthy()
        assert '"--port"' in (tmp_path / "server.json").read_text()
        started = [server.process.pid, child_of(server.log)]
        assert all(map(is_alive, started))
    assert wait_until_gone(started) == []
    assert is_alive(bystander.pid)
    bystander.kill()
    bystander.wait()


def test_a_server_that_ends_by_itself_is_quoted(serve: Serve, tmp_path: Path) -> None:
    wrong = replace(serve, flags=["--fails"])
    with (
        VllmServer(wrong, 0, tmp_path) as server,
        pytest.raises(UserError, match=r"ended with status 1.*\n.*no such flag: --fails"),
    ):
        server.wait_until_healthy()


def test_a_port_in_use_is_refused_with_another(serve: Serve, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", serve.port)),
        pytest.raises(UserError, match=rf"choose another: serve\.port={serve.port + 1}"),
    ):
        VllmServer(serve, 0, tmp_path)
    assert not (tmp_path / "server.log").exists()


def test_a_missing_vllm_is_said_with_the_command_that_makes_it(serve: Serve) -> None:
    with pytest.raises(UserError, match=r"make \.venv-vllm/stamp"):
        vllm_python(replace(serve, python="/nowhere/python"))


@pytest.mark.parametrize(
    ("recipe", "end"),
    [
        ("serve_judge", signal.SIGINT),
        ("serve_judge", signal.SIGTERM),
        ("serve_judge", signal.SIGKILL),
        ("serve_teacher", signal.SIGINT),
        ("serve_rollouts", signal.SIGINT),
    ],
)
def test_the_recipe_takes_the_server_along_when_it_ends(
    serve: Serve, tmp_path: Path, recipe: str, end: signal.Signals
) -> None:
    process = subprocess.Popen(
        command_of(recipe, serve, tmp_path),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    started = wait_until_served(process, recipe, serve, tmp_path)
    process.send_signal(end)
    assert process.wait(30) == (0 if end is not signal.SIGKILL else -signal.SIGKILL)
    # Killed without a word, it can't stop the server's children; the server itself is told.
    assert wait_until_gone(started[:1] if end is signal.SIGKILL else started) == []
    for left in filter(is_alive, started):
        os.kill(left, signal.SIGKILL)


def test_the_recipe_ends_with_its_parent(serve: Serve, tmp_path: Path) -> None:
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; true', "sh", *command_of("serve_judge", serve, tmp_path)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    started = wait_until_served(shell, "serve_judge", serve, tmp_path)
    shell.kill()
    shell.wait()
    assert wait_until_gone(started) == []


def command_of(recipe: str, serve: Serve, outputs: Path) -> list[str]:
    return [
        sys.executable, f"recipes/{recipe}.py", f"serve.port={serve.port}",
        f"serve.python={serve.python}", f"paths.outputs={outputs}", "run_name=x",
    ]  # fmt: skip


def wait_until_served(
    process: subprocess.Popen[str], recipe: str, serve: Serve, outputs: Path
) -> list[int]:
    """The server and its child, once the recipe has said all that it says of them."""
    folder = outputs / recipe / "x"
    url = f"http://127.0.0.1:{serve.port}/v1"
    model = compose_recipe(recipe, [])["serve"]["model"]
    expected = [
        f"{recipe}: starting {folder}",
        f"{recipe}: loading {model}; its log: {folder / 'server.log'}",
        f"{recipe}: {url} serves {model}; use it with",
        f"  {HINTS[recipe].format(url=url, address=url.removesuffix('/v1'))}",
        f"{recipe}: Ctrl-C stops it",
    ]
    assert process.stderr is not None
    said: list[str] = []
    while expected[-1] not in said:
        line = process.stderr.readline()
        assert line, said
        said.append(line.removesuffix("\n"))
    assert said[-len(expected) :] == expected
    server = json.loads((folder / "server.json").read_text())["process"]
    return [server, child_of(folder / "server.log")]


def test_flags_may_be_numbers_and_mappings() -> None:
    given = "serve.flags=[--weight-transfer-config,{backend:nccl},--max-logprobs,-1,--flag,0.5]"
    problems = Problems()
    values = {**compose_recipe("serve_rollouts", [given]), "run_name": "x"}
    config = read_values(ServeRolloutsConfig, values, problems)
    assert config is not None, problems.found
    command = vllm_command("python", config.serve, 0)
    assert command[-6:] == [
        "--weight-transfer-config", '{"backend": "nccl"}', "--max-logprobs", "-1", "--flag", "0.5",
    ]  # fmt: skip


def test_clients_elsewhere_are_told_the_name_of_this_machine(serve: Serve, tmp_path: Path) -> None:
    addresses = {"0.0.0.0": socket.gethostname(), "127.0.0.1": "127.0.0.1"}
    for host, told in addresses.items():
        server = VllmServer(replace(serve, host=host), 0, tmp_path)
        assert server.address_for_clients.startswith(f"http://{told}:")
        assert server.url.startswith("http://127.0.0.1:")

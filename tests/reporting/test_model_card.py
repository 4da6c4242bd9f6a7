"""A finished training is described by its card, and is sent to the Hub whole, and in private."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from alignxplore_trl.reporting.model_card import publish, write_card
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder

COMMAND = "python recipes/rl.py run=mine"


class Hub(ThreadingHTTPServer):
    """Answers what a push asks the Hub, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.private, self.status = True, 200
        self.asked: list[tuple[str, str]] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer({"id": "ann/mine", "private": self.server.private, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.path, body))
        if self.path.endswith("/preupload/main"):
            files = [own["path"] for own in json.loads(body)["files"]]
            answers = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]
            self._answer({"files": answers})
        elif "/commit/" in self.path:
            url = "https://huggingface.co/ann/mine/commit/abc"
            self._answer({"commitUrl": url, "commitOid": "abc", "success": True})
        else:
            self._answer({"url": "https://huggingface.co/ann/mine", "name": "ann/mine"})

    def _answer(self, body: object) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    folder = StageFolder(tmp_path / "mine" / "rl")
    folder.model.mkdir(parents=True)
    config = "model.backbone: org/base\noutput.weights: merged\nrl: {learning_rate: 0.001}\n"
    (folder.path / "config.yaml").write_text(config)
    (folder.path / "environment.txt").write_text(f"torch: 2\ncommit: abc\ncommand: {COMMAND}\n")
    (folder.model / "config.json").write_text('{"a model": "small"}')
    write_card(folder, {"steps": 10, "train_loss": 0.123456, "note": "text"})
    return folder


def address(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


def test_the_card_says_how_the_model_came_about(folder: StageFolder) -> None:
    card = ModelCard.load(folder.model / "README.md")
    assert card.data.base_model == "org/base"
    assert card.data.tags == ["alignxplore", "trl", "grpo"]
    for said in ("# mine, rl", COMMAND, "| train_loss | 0.1235 |", "learning_rate: 0.001"):
        assert said in card.content
    assert "AutoPeftModelForCausalLM" not in card.content


def test_a_finished_run_is_sent_in_private(hub: Hub, folder: StageFolder) -> None:
    assert publish(folder, "ann/mine", address(hub)) == "https://huggingface.co/ann/mine/commit/abc"
    created = json.loads(next(body for path, body in hub.asked if path == "/api/repos/create"))
    assert created["visibility"] == "private"
    [commit] = [body for path, body in hub.asked if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert files == {"README.md", "config.json"}


def test_a_public_repository_is_refused(hub: Hub, folder: StageFolder) -> None:
    hub.private = False
    with pytest.raises(UserError, match="ann/mine could not be sent: it is there already, and pub"):
        publish(folder, "ann/mine", address(hub))
    assert not any("/commit/" in path for path, _ in hub.asked)


def test_what_the_hub_refuses_is_said_without_the_token(hub: Hub, folder: StageFolder) -> None:
    hub.status = 403
    with pytest.raises(UserError, match=r"403.*the same command sends it") as refused:
        publish(folder, "ann/mine", address(hub))
    assert "hf_secret" not in str(refused.value)

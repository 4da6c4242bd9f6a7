"""A finished training is described by its card, and is sent to the Hub whole, and in private."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from httpx import LocalProtocolError
from huggingface_hub import ModelCard

from alignxplore_trl.reporting import model_card
from alignxplore_trl.reporting.model_card import publish, write_card
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import StageFolder

COMMAND = "python recipes/rl.py run=mine"


class Hub:
    """Keeps what it is sent, in the place of `HfApi`."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.private, self.sent = True, set[str]()
        self.error: Exception | None = None

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
        assert private
        if self.error:
            raise self.error

    def repo_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def upload_folder(
        self, repo_id: str, folder_path: Path, commit_message: str
    ) -> SimpleNamespace:
        self.sent = {path.name for path in folder_path.iterdir()}
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/abc")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(model_card, "HfApi", lambda endpoint: hub)
    return hub


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


def test_the_card_says_how_the_model_came_about(folder: StageFolder) -> None:
    card = ModelCard.load(folder.model / "README.md")
    assert card.data.base_model == "org/base"
    assert card.data.tags == ["alignxplore", "trl", "grpo"]
    for said in ("# mine, rl", COMMAND, "| train_loss | 0.1235 |", "learning_rate: 0.001"):
        assert said in card.content
    assert "AutoPeftModelForCausalLM" not in card.content


def test_a_finished_run_is_sent_in_private(hub: Hub, folder: StageFolder) -> None:
    assert publish(folder, "ann/mine") == "https://hub/ann/mine/commit/abc"
    assert hub.sent == {"README.md", "config.json"}


def test_a_public_repository_is_refused(hub: Hub, folder: StageFolder) -> None:
    hub.private = False
    with pytest.raises(UserError, match="ann/mine could not be sent: it is there already, and pub"):
        publish(folder, "ann/mine")
    assert not hub.sent


def test_what_the_hub_refuses_is_said_without_the_token(hub: Hub, folder: StageFolder) -> None:
    hub.error = LocalProtocolError("Illegal header value b'Bearer hf_secret'")
    with pytest.raises(
        UserError, match=r"LocalProtocolError.*the same command sends it"
    ) as refused:
        publish(folder, "ann/mine")
    assert "hf_secret" not in str(refused.value)

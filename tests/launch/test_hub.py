"""Data sets and models go to the Hub whole, to whom they are meant for, or say why they don't."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest

from alignxplore_trl.launch.hub import check_hub, push
from alignxplore_trl.run.errors import UserError

TOKEN = "hf_secretSecretSecret"
REPOSITORY = "someone/inferences"
KEY = "synthesis.push_to_hub"


class Hub(ThreadingHTTPServer):
    """The Hub's endpoints as far as a commit of small files needs them.

    Attributes:
        received: path and body of each request.
        tokens: the tokens that came with them.
        refusals: path -> status and message with which it is refused instead.
        existing: whether the repository is there already, and private.
        models: its repositories hold models, not data sets.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.received, self.tokens = [], set()
        self.refusals: dict[str, tuple[int, str]] = {}
        self.existing: bool | None = None
        self.private = True
        self.models = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        if path in self.refusals:
            status, message = self.refusals[path]
            return status, {"error": message}
        url = (
            f"{self.address}/{REPOSITORY}"
            if self.models
            else f"{self.address}/datasets/{REPOSITORY}"
        )
        kind = "models" if self.models else "datasets"
        if path == "/api/repos/create":
            if self.existing is None:
                self.private = json.loads(body)["visibility"] == "private"
                return 200, {"url": url}
            self.private = self.existing
            return 409, {"error": "You already created this dataset repo", "url": url}
        if path == f"/api/{kind}/{REPOSITORY}":
            return 200, {"id": REPOSITORY, "private": self.private}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == f"/api/{kind}/{REPOSITORY}/preupload/main":
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"], **plain} for file in files]}
        if path == f"/api/{kind}/{REPOSITORY}/commit/main":
            oid = "0" * 40
            return 200, {"commitUrl": f"{url}/commit/{oid}", "commitOid": oid}
        return 404, {"error": f"no such endpoint: {path}"}

    def bodies(self, end: str) -> list[bytes]:
        return [body for path, body in self.received if path.endswith(end)]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.path, body))
        self.server.tokens.add(self.headers.get("Authorization"))
        status, answer = self.server.answer(self.path, body)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def token(monkeypatch, tmp_path):
    """A token of the environment, and none of this machine's."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "run"
    (folder / "completions").mkdir(parents=True)
    (folder / "card.md").write_text("---\nconfigs: []\n---\n\n# Inferences\n", encoding="utf-8")
    (folder / "examples.parquet").write_bytes(bytes(range(256)) * 40)
    (folder / "completions/candidates.parquet").write_bytes(b"PAR1\x00\xff")
    return {
        "README.md": folder / "card.md",
        "examples.parquet": folder / "examples.parquet",
        "completions/candidates.parquet": folder / "completions/candidates.parquet",
    }


def test_the_bytes_arrive_in_one_commit(hub, files):
    url = push(KEY, "dataset", REPOSITORY, files, endpoint=hub.address)
    assert url == f"{hub.address}/datasets/{REPOSITORY}"
    [commit] = hub.bodies("/commit/main")
    header, *operations = [json.loads(line) for line in commit.splitlines()]
    assert header["key"] == "header"
    assert header["value"]["summary"]
    assert {operation["key"] for operation in operations} == {"file"}
    sent = {each["value"]["path"]: each["value"]["content"] for each in operations}
    assert {path: base64.b64decode(content) for path, content in sent.items()} == {
        path: file.read_bytes() for path, file in files.items()
    }
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_model_goes_to_a_repository_for_models(hub, files):
    hub.models = True
    key = "output.push_to_hub"
    assert (
        push(key, "model", REPOSITORY, files, endpoint=hub.address) == f"{hub.address}/{REPOSITORY}"
    )
    [created] = map(json.loads, hub.bodies("/repos/create"))
    assert created["visibility"] == "private"
    assert created.get("type", "model") == "model"
    assert len(hub.bodies(f"/api/models/{REPOSITORY}/commit/main")) == 1
    hub.existing = False
    with pytest.raises(UserError, match=r"output.push_to_hub: .* there already, and public"):
        push(key, "model", REPOSITORY, files, endpoint=hub.address)


@pytest.mark.parametrize("private", [True, False])
def test_the_repository_is_as_private_as_was_asked(hub, files, private):
    push(KEY, "dataset", REPOSITORY, files, private, endpoint=hub.address)
    [created] = map(json.loads, hub.bodies("/repos/create"))
    assert created == {
        "name": "inferences",
        "organization": "someone",
        "type": "dataset",
        "visibility": "private" if private else "public",
    }


@pytest.mark.parametrize(("existing", "private"), [(True, True), (True, False), (False, False)])
def test_a_repository_that_is_there_is_used_again(hub, files, existing, private):
    hub.existing = existing
    push(KEY, "dataset", REPOSITORY, files, private, endpoint=hub.address)
    assert len(hub.bodies("/commit/main")) == 1


def test_what_is_meant_for_few_is_not_sent_to_a_public_repository(hub, files):
    hub.existing = False
    with pytest.raises(UserError, match="there already, and public") as error:
        push(KEY, "dataset", REPOSITORY, files, endpoint=hub.address)
    assert not hub.bodies("/preupload/main")
    assert not hub.bodies("/commit/main")
    assert str(files["README.md"].parent) in str(error.value)


REFUSALS = {
    "unknown token": ("/api/repos/create", 401, "the Hub doesn't know this token"),
    "no right to create": ("/api/repos/create", 403, "may not write there"),
    "no right to write": (f"/api/datasets/{REPOSITORY}/preupload/main", 403, "may not write"),
    "full": (f"/api/datasets/{REPOSITORY}/commit/main", 413, "status 413, said by the Hub"),
    "broken": ("/api/repos/create", 500, "status 500, said by the Hub"),
    "bad card": ("/api/validate-yaml", 400, "Invalid metadata in README.md"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_hub_refuses_is_said_with_what_mends_it(hub, files, name):
    path, status, message = REFUSALS[name]
    hub.refusals[path] = (status, "said\nby the Hub")
    # Otherwise a repository that can be read is taken for one that can be written to.
    hub.refusals[f"/api/datasets/{REPOSITORY}"] = (404, "Repository not found")
    if "datasets" in path or "yaml" in path:
        del hub.refusals[f"/api/datasets/{REPOSITORY}"]
    check_failure(hub.address, files, message)


def test_a_hub_that_is_not_there(files, hub):
    hub.server_close()
    check_failure(hub.address, files, r"can't be reached \(\w+Error\)")


@pytest.mark.parametrize("answer", [b"<html>Sign in first</html>", b"{}"])
def test_a_hub_that_is_another_server(files, hub, answer):
    hub.answer = lambda path, body: (200, answer)
    check_failure(hub.address, files, "Error: ")


def test_nothing_is_sent_offline(monkeypatch, files, hub):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_failure(hub.address, files, "HF_HUB_OFFLINE is set")
    assert not hub.received


def test_a_token_that_no_header_can_hold_is_not_shown(monkeypatch, files, hub):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    check_failure(hub.address, files, "could not be sent")


def test_a_file_that_is_missing(files, hub):
    files["examples.parquet"].unlink()
    check_failure(hub.address, files, "examples.parquet")
    assert not hub.bodies("/commit/main")


def check_failure(address, files, message):
    with pytest.raises(UserError, match=message) as error:
        push(KEY, "dataset", REPOSITORY, files, endpoint=address)
    [problem] = error.value.problems
    assert problem.startswith(f"synthesis.push_to_hub: {REPOSITORY} could not be sent to the Hub: ")
    assert problem.endswith(f"complete, in {files['README.md'].parent}")
    assert "\n" not in problem
    assert TOKEN not in problem


@pytest.mark.parametrize("repository", ["someone/inferences", "Some-one.2/in_fer.ences"])
def test_nothing_is_wrong(repository):
    assert check_hub(KEY, repository) == []


@pytest.mark.parametrize(
    "repository",
    ["", "inferences", "a/b/c", "datasets/a/b", "/b", "a/", "a b/c", "a/b--c", "a/b.git", "ä/b"],
)
def test_names_that_no_repository_has(repository):
    [problem] = check_hub(KEY, repository)
    assert problem.startswith(f"synthesis.push_to_hub: {repository!r} found, expected owner/name")


def test_a_token_is_needed_beforehand(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    [problem] = check_hub(KEY, REPOSITORY)
    assert problem.startswith("synthesis.push_to_hub: found no token")
    assert "HF_TOKEN" in problem
    assert "hf auth login" in problem
    assert len(check_hub(KEY, "nobody")) == 2
    (tmp_path / "token").write_text(TOKEN)
    assert check_hub(KEY, REPOSITORY) == []


def test_a_token_service_that_fails_gives_none(monkeypatch):
    monkeypatch.setenv("HF_OIDC_RESOURCE", "datasets/someone/inferences")
    [problem] = check_hub(KEY, REPOSITORY)
    assert "found no token" in problem


def test_offline_is_said_beforehand(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    [problem] = check_hub(KEY, REPOSITORY)
    assert "HF_HUB_OFFLINE is set" in problem


def test_no_problem_shows_the_token(monkeypatch):
    assert TOKEN not in " ".join(check_hub(KEY, "nobody"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert TOKEN not in " ".join(check_hub(KEY, "nobody"))

"""The command `alignxplore`, with a small model that answers in the format."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.command_line import main
from alignxplore_trl.data.world import POLE_OF_WORDING, World
from alignxplore_trl.inference.describing import SamplingSettings, generation_config
from alignxplore_trl.inference.how_to_ask import PromptSettings, save_how_to_ask
from alignxplore_trl.inference.user_states import UserStates
from alignxplore_trl.signals import signal_to_dict
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import Shape, build_model
from tests.judging.fault_server import Body, FaultServer, Reply
from tests.recipes.conftest import teach_format

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
Command = Callable[..., tuple[int, str, str]]


SIGNALS = [signal for case in World(seed=9).cases("cold_start", 4) for signal in case.signals]


@pytest.fixture(scope="module")
def model(
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder as a training leaves it, of a model that describes and updates in the format."""
    folder = tmp_path_factory.mktemp("run") / "model"
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    trained = build_model(shape, tokenizer, seed=0)
    rounds = [SIGNALS[start : start + count] for start in range(0, 16, 2) for count in (2, 4)]
    earlier = (None, "prefers brief", "prefers detailed")
    teach_format(
        trained, tokenizer, [prompts.inference(each, known) for each in rounds for known in earlier]
    )
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_how_to_ask(folder, prompts, PromptSettings(320, 4, 2))
    generation_config(SamplingSettings(max_new_tokens=24), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Give a command in an empty folder: its status, and what it wrote."""
    monkeypatch.chdir(tmp_path)

    def give(*arguments: str) -> tuple[int, str, str]:
        asks = arguments[0] in ("describe", "update", "watch") and "--model" not in arguments
        try:
            main([*arguments, *(["--model", str(model)] if asks else [])])
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return give


def write_signals(path: Path, count: int, start: int = 0, **about: str) -> Path:
    """Signals of the world that the small model was taught the format with."""
    rows = [{**signal_to_dict(each), **about} for each in SIGNALS[start : start + count]]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_user_is_described_from_a_file(command: Command, tmp_path: Path) -> None:
    file = write_signals(tmp_path / "user.jsonl", 4)
    status, out, _ = command("describe", str(file))
    assert status == 0
    assert out.strip() in ("prefers brief", "prefers detailed")
    status, out, _ = command("describe", str(file), "--json", "--seed", "1")
    found: dict[str, Any] = json.loads(out)
    assert found["user"] is None
    assert found["description"].startswith("prefers ")
    assert found["reasoning"]
    assert found["prompt_tokens"] > 4
    assert not list(tmp_path.glob("*.sqlite")), "nothing is kept"


def test_several_users_are_described_at_once(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    text = [write_signals(file, 4, user=user).read_text() for user in ("ann", "bob")]
    file.write_text("".join(text))
    status, out, _ = command("describe", str(file), "--reasoning")
    assert status == 0
    assert out.startswith("ann: likes ")
    assert "\nbob: likes " in out


def test_a_description_is_kept_up_to_date(command: Command, tmp_path: Path) -> None:
    first = write_signals(tmp_path / "one.jsonl", 6)
    status, out, err = command("update", str(first), "--user", "ann")
    assert status == 0
    assert "ann: 6 new signals, 0 known" in err
    assert out.count("ann, version") == 2
    assert "4 signals read" in out
    status, _, err = command("update", str(first), "--user", "ann")
    assert (status, "0 new signals, 6 known" in err) == (0, True)
    assert "not enough signals are pending" in err

    more = write_signals(tmp_path / "more.jsonl", 2, start=6)
    command("update", str(more), "--user", "ann", "--at-least", "3")
    status, out, err = command("show", "ann", "--json")
    shown = json.loads(out)
    assert (shown["user"], shown["number"], shown["base"]) == ("ann", 2, 1)
    assert "2 signals are pending; alignxplore update --user ann reads them" in err
    command("update")
    assert command("show")[1] == "ann\n"
    assert command("history", "ann")[1].count("ann, version") == 3

    status, out, _ = command("undo", "ann")
    assert (status, "version 2" in out) == (0, True)
    assert "version 3" in command("history", "ann")[1]
    exported = json.loads(command("export", "ann")[1])
    assert [each["version"] for each in exported["signals"]] == [1] * 4 + [2] * 2 + [3] * 2
    status, _, err = command("forget", "ann")
    assert (status, "ann is forgotten" in err) == (0, True)
    for name in ("show", "history", "undo", "export", "forget"):
        status, _, err = command(name, "ann")
        assert status == 2, name
        assert "ann" in err


def test_appended_signals_are_read_as_they_come(
    command: Command, model: Path, tmp_path: Path
) -> None:
    file = write_signals(tmp_path / "feed.jsonl", 2, user="ann")
    next_line = write_signals(tmp_path / "next.jsonl", 1, start=2, user="bob").read_text()
    with file.open("a") as stream:
        stream.write(f"not JSON\n{next_line[:40]}")
    status, out, err = command("watch", str(file), "--once")
    assert status == 0
    assert out.count("ann, version") == 1
    assert f"passed over: {file}, line 3, column 1: not JSON" in err

    arguments = [sys.executable, "-m", "alignxplore_trl.command_line", "watch", str(file),
                 "--model", str(model), "--every", "0.05"]  # fmt: skip
    watching = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    try:
        with file.open("a") as stream:
            stream.write(next_line[40:])
        with UserStates(tmp_path / "users.sqlite") as states:
            until = time.monotonic() + 120
            while states.current("bob") is None and time.monotonic() < until:
                time.sleep(0.05)
            assert states.current("bob") is not None
            assert len(states.history("ann")) == 1
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=60) == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "nowhere.jsonl"], "nowhere.jsonl: found no such file"),
        (["describe", "some/name"], "some/name: found no such file"),
        (["describe", "."], ".: found no such file"),
        (["watch", "."], ".: found a folder"),
        (["describe", "deep.jsonl"], "deep.jsonl, line 1: found lists within lists"),
        (["describe", "good.jsonl", "--temperature", "nan"], "nan found, expected 0 or more"),
        (["describe", "good.jsonl", "--seed", "-1"], "-1 found, expected 0 to"),
        (["describe", "good.jsonl", "--device", "nope"], "--device: nope found"),
        (["describe", "good.jsonl", "--vllm"], "vLLM isn't installed here"),
        (["describe", "good.jsonl", "--server.served_as", "x"], "without --server.urls"),
        (["update", "good.jsonl", "--user", ""], "expected a name of printable letters"),
        (
            ["describe", "good.jsonl", "--model", "outputs/rl/latest/model"],
            "make rl-streaming trains",
        ),
        (["describe", "good.jsonl", "--model", "."], "it has no describer.json"),
        (["describe", "bad.jsonl"], "bad.jsonl, line 1, rejected: nothing found, expected a text"),
        (
            ["update", "good.jsonl"],
            "good.jsonl, line 1, user: nothing found; name the user with --user",
        ),
        (
            ["update", "of_ann.jsonl", "--user", "bob"],
            "of_ann.jsonl, line 1, user: ann found, expected bob",
        ),
        (["watch", "no/folder/feed.jsonl"], "found no folder"),
        (["show", "ann"], "--states: found no file users.sqlite"),
        (["describe", "good.jsonl", "--attempts", "0"], "0 found, expected 1 or more"),
        (["describe", "good.jsonl", "--server.urls", "localhost"], "server.urls[0]: expected http"),
        (
            ["reply", "hi", "--model", "no/model", "--judge", "no/judge", "--candidates", "2"],
            "--judge: no/judge: ",
        ),
        (["reply", "hi", "--model", "m", "--candidates", "2"], "no judge found"),
        (["reply", "hi", "--model", "m", "--judge", "m"], "1 candidate found"),
        (
            [
                "reply",
                "hi",
                "--model",
                "m",
                "--judge",
                "m",
                "--candidates",
                "2",
                "--temperature",
                "0",
            ],
            "--temperature: 0 found",
        ),
        (["reply", "hi", "--model", str(ASSETS / "judge"), "--chat"], "has no chat template"),
        (["reply", "hi", "--model", str(ASSETS / "judge"), "--prompts", "odd"], "odd has no "),
        (["reply", "hi", "--model", "m", "--user", "ann"], "found no file users.sqlite"),
        (["reply", "hi", "--model", "m", "--server.urls", "localhost"], "expected http"),
    ],
)
def test_a_mistake_is_told(
    command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_signals(tmp_path / "good.jsonl", 1)
    write_signals(tmp_path / "of_ann.jsonl", 1, user="ann")
    (tmp_path / "deep.jsonl").write_text('{"post": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    (tmp_path / "bad.jsonl").write_text('{"post": "p", "chosen": "c"}\n')
    status, _, err = command(*arguments)
    assert status == 2
    assert message in err


def test_what_comes_to_nothing_is_told_and_stays_pending(command: Command, tmp_path: Path) -> None:
    file = write_signals(tmp_path / "ann.jsonl", 2, user="ann")
    # So hot that any token may come: no completion is well-formed.
    hot = ("--temperature", "1e6", "--attempts", "2")
    for name in ("describe", "update"):
        status, out, err = command(name, str(file), *hot)
        assert (status, out) == (1, "")
        assert "not described: ann: none of 2 completions was well-formed; the last one: " in err
    with UserStates(tmp_path / "users.sqlite") as states:
        assert len(states.pending("ann")) == 2


def test_a_reply_is_what_the_described_user_would_like(command: Command, tmp_path: Path) -> None:
    writes = ("--model", str(ASSETS / "judge"), "--prompts", "compact", "--max-new-tokens", "3")
    status, out, err = command("reply", "fixing bikes", "--description", "prefers brief", *writes)
    assert status == 0
    assert any(POLE_OF_WORDING.get(word) == "brief" for word in out.strip().split(", "))
    assert "the limit of 3 tokens ended it" in err

    file = write_signals(tmp_path / "ann.jsonl", 4, user="ann")
    command("update", str(file))
    kept = json.loads(command("show", "ann", "--json")[1])
    judged = ("--candidates", "4", "--judge", str(ASSETS / "test_judge"), "--json")
    status, out, _ = command("reply", "fixing bikes", "--user", "ann", *writes, *judged)
    found = json.loads(out)
    assert (status, found["description"]) == (0, kept["description"])
    assert found["chosen"] in found["candidates"]
    assert found["chosen"]["preference"] == max(each["preference"] for each in found["candidates"])


def test_a_server_replies(command: Command) -> None:
    def answer(body: Body, number: int) -> Reply:
        choice = {"message": {"content": "sure"}, "finish_reason": "stop"}
        return Reply(json.dumps({"choices": [choice]}).encode())

    with FaultServer(answer) as server:
        asked = ("--model", "served", "--server.urls", server.url, "--chat")
        status, out, _ = command("reply", "fixing bikes", "--description", "prefers brief", *asked)
        assert (status, out) == (0, "sure\n")
        [message] = server.received[-1].body["messages"]
        assert "<description>prefers brief</description>" in message["content"]
    status, _, err = command("reply", "fixing bikes", *asked)
    assert status == 2
    assert "start one with vllm serve <model>" in err


def test_all_that_is_left_out_is_said(command: Command, tmp_path: Path) -> None:
    file = write_signals(tmp_path / "many.jsonl", 32)
    status, out, err = command("describe", str(file))
    assert (status, out.count("\n")) == (0, 1)
    left_out = int(re.search(r"the user: (\d+) signals, the oldest, didn't fit", err)[1])
    assert json.loads(command("describe", str(file), "--json")[1])["dropped_signals"] == left_out


def test_a_feed_that_is_read_once_is_read_to_its_end(command: Command, tmp_path: Path) -> None:
    file = write_signals(tmp_path / "feed.jsonl", 8, user="ann")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().rstrip())
    status, out, err = command("watch", str(file), "--once")
    assert (status, "passed over" in err) == (0, False)
    assert "version 2" in out
    assert len(json.loads(command("export", "ann")[1])["signals"]) == 8
    more = write_signals(tmp_path / "more.jsonl", 2, start=8, user="bob")
    status, _, err = command("watch", str(more), "--once", "--temperature", "1e6")
    assert (status, "not described: bob" in err) == (1, True)


def test_a_terminal_is_given_no_commands(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    text = [write_signals(file, 4, user=user).read_text() for user in ("a\x1b[31m", "bob")]
    file.write_text("".join(text))
    out = command("describe", str(file))[1]
    assert "\x1b" not in out
    assert "a\\x1b[31m: " in out

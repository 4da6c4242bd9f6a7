"""What stands behind the page of make demo, and what is refused before any model is loaded."""

from __future__ import annotations

import shutil
import socket
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignxplore_trl.demo.models import DemoModels
from alignxplore_trl.demo.rounds import Visit
from alignxplore_trl.inference.how_to_ask import PromptSettings, save_how_to_ask
from alignxplore_trl.launch import checks
from alignxplore_trl.launch.checks import check_config
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import DemoConfig, read_values
from alignxplore_trl.launch.demo import load_describer, load_replies, models_in_words
from alignxplore_trl.launch.serving import check_port
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Comparison
from alignxplore_trl.text.rendering import PromptSet

ASSETS = Path(__file__).parents[2] / "assets"
VISIT = Visit(chosen=(Comparison("fixing bikes indoors", "tldr, hugs", "moreover, dear"),))


def read(outputs: Path, *overrides: str) -> DemoConfig:
    problems = Problems()
    told = [f"paths.assets={ASSETS}", f"paths.outputs={outputs}", *overrides]
    values = {**compose_recipe("demo", told), "run_name": "x"}
    config = read_values(DemoConfig, values, problems)
    assert config is not None, problems.found
    return config


def problems_of(outputs: Path, *overrides: str) -> list[str]:
    problems = Problems()
    check_config(read(outputs, *overrides), problems)
    return problems.found


def trained(folder: Path) -> Path:
    """A folder as a training saves it."""
    shutil.copytree(ASSETS / "teacher", folder)
    save_how_to_ask(folder, PromptSet("compact"), PromptSettings(320, 4, 2))
    return folder


def test_the_configuration_that_ships_is_whole(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["data=alignx"], ["demo.pairs: found none with data=alignx"]),
        (["data=alignx", "data.path=rows.json"], ["data.path: found 'rows.json'", "demo.pairs: "]),
        (["demo.pairs=nowhere.jsonl"], ["demo.pairs: found no file nowhere.jsonl"]),
        (["data.signal_kind=posts"], ["data: the world's test users have compared nothing"]),
        (["~data.counts.test"], ["data: the world's test users have compared nothing"]),
        (["data.dimensions_per_user=99"], ["data.dimensions_per_user: 99 found"]),
        (["setting.signals=0"], ["setting.signals: 0 found"]),
        (["demo.port=0", "demo.deadline=0"], ["demo.deadline: 0", "demo.port: 0 found"]),
        (["demo.candidates=0"], ["demo.candidates: 0 found, expected 1 or more"]),
        (["demo.candidates=2", "judge.model=/nowhere/x"], ["judge.model: found no folder"]),
        (["demo.candidates=2", "language_model.temperature=0"], ["demo.candidates: 2 found"]),
        (["demo.model=/nowhere/x"], ["demo.model: found no folder /nowhere/x"]),
        (["language_model.model=/nowhere/x"], ["language_model.model: found no folder"]),
        (["model.teacher=/nowhere/x"], ["model.teacher: found no folder"]),
        (["demo.server.urls=[http://127.0.0.1:1/v1]"], ["demo.model: found none with demo.server"]),
        (
            [f"demo.model={ASSETS}/teacher", "demo.server.urls=[x]",
             "demo.server.key_variable=NO_SUCH_KEY"],
            ["demo.server.urls[0]: expected http", "demo.server.key_variable: "],
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(
    tmp_path: Path, overrides: list[str], messages: list[str]
) -> None:
    found = problems_of(tmp_path, *overrides)
    assert len(found) == len(messages), found
    for problem, message in zip(found, messages, strict=True):
        assert problem.startswith(message)


def test_pairs_of_ones_own_need_no_data(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    assert problems_of(tmp_path, "data=alignx", f"demo.pairs={tmp_path}/pairs.jsonl") == []


def test_without_gradio_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        checks, "find_spec", lambda name: None if name == "gradio" else find_spec(name)
    )
    (problem,) = problems_of(tmp_path)
    assert "pip install -e '.[demo]'" in problem


def test_a_port_in_use_names_the_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^demo.port: .* choose another: demo.port={port + 1}"
        ):
            check_port("127.0.0.1", port, "demo.port")


def test_the_teacher_describes_where_nothing_is_trained_and_the_page_says_so(
    tmp_path: Path,
) -> None:
    config = read(tmp_path)
    told = models_in_words(config)
    assert "assets/teacher, the teacher" in told
    assert "make rl-streaming trains one" in told
    describer = load_describer(config)
    assert describer.describe(VISIT.chosen).description
    assert describer.writer.max_prompt_tokens == config.prompts.max_prompt_tokens


def test_the_latest_trained_model_describes_or_the_one_that_is_named(tmp_path: Path) -> None:
    latest = trained(tmp_path / "rl" / "latest" / "model")
    assert models_in_words(read(tmp_path)).startswith(f"Descriptions are by {latest}. ")
    assert load_describer(read(tmp_path)).name == str(latest)
    other = trained(tmp_path / "other")
    assert load_describer(read(tmp_path, f"demo.model={other}")).name == str(other)


def test_a_model_that_says_nothing_of_how_it_is_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"describer.json"):
        load_describer(read(tmp_path, f"demo.model={ASSETS}/teacher"))


def test_a_dead_server_becomes_a_problem_of_the_visit_in_time(tmp_path: Path) -> None:
    model = trained(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    served = (f"demo.server.urls=[http://127.0.0.1:{dead}/v1]", "demo.deadline=1")
    config = read(tmp_path, f"demo.model={model}", *served)
    begun = time.monotonic()
    visit = DemoModels(load_describer(config), load_replies(config)).read_choices(VISIT)
    assert time.monotonic() - begun < 30
    assert visit.problem
    assert visit.chosen == VISIT.chosen


def test_candidates_are_chosen_by_the_judge(tmp_path: Path) -> None:
    replies = load_replies(read(tmp_path, "demo.candidates=3"))
    assert replies.judge is not None
    reply = replies.reply("fixing bikes indoors", "prefers brief")
    assert reply.chosen in reply.candidates
    assert load_replies(read(tmp_path)).judge is None


def test_a_server_of_replies_is_waited_for_as_long_as_a_visitor_waits(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    told = (
        "language_model=server",
        f"language_model.server.urls=[http://127.0.0.1:{dead}/v1]",
        "demo.deadline=1",
    )
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"language_model\.server"):
        load_replies(read(tmp_path, *told))
    assert time.monotonic() - begun < 30

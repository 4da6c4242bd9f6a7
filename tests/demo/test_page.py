"""The served page, asked as its own script asks it: several visitors, failures, hostile texts."""

from __future__ import annotations

import html
import json
import threading
import urllib.request
from typing import Any

import pytest
from gradio_client import Client

from alignxplore_trl.demo.pairs import Pair
from alignxplore_trl.demo.rounds import Rounds
from alignxplore_trl.run.errors import UserError
from tests.demo.conftest import Serve
from tests.demo.scripted import ScriptedDescriber, ScriptedReplies, models

HOSTILE = "<script>hacked()</script> **bold** {{value}} ${1+1} `x` <img src=x onerror=hacked()>"
PAIRS = tuple(Pair(f"post {n}", f"left {n}", f"right {n}") for n in range(6))
# The places of the components in what an endpoint that shows a visit gives back.
QUESTION, LEFT, RIGHT, DESCRIPTION, HISTORY = range(5)


def visitor(address: str) -> Client:
    return Client(address, verbose=False, analytics_enabled=False)


def act(client: Client, *names: str) -> list[str]:
    """Click, and give what the page shows in the end."""
    for name in names:
        shown = client.predict(api_name=f"/{name}")
    return [str(each) for each in shown]


def test_two_visitors_at_once_have_visits_of_their_own(serve: Serve) -> None:
    address = serve(
        Rounds(PAIRS, 1), models(ScriptedDescriber("of one", "of other"), ScriptedReplies("hi"))
    )
    one, other = visitor(address), visitor(address)
    assert "of one" in act(one, "choose_left")[DESCRIPTION]
    shown = act(other, "neither")
    assert "Nothing yet" in shown[DESCRIPTION]
    assert "1 pair skipped, as no signal" in shown[QUESTION]
    shown = act(other, "choose_right")
    assert "of other" in shown[DESCRIPTION]
    assert "of one" not in "".join(shown)
    assert "Nothing yet" in act(one, "start_over")[DESCRIPTION]
    assert "post 3" in act(other, "neither")[QUESTION]


def test_a_choice_does_not_wait_for_another_visitors_model(serve: Serve) -> None:
    go_on = threading.Event()

    class Slow(ScriptedDescriber):
        def complete(self, prompts: Any, seed: int) -> Any:
            assert go_on.wait(60)
            return super().complete(prompts, seed)

    address = serve(Rounds(PAIRS, 2), models(Slow("slow"), ScriptedReplies("hi")))
    one, other = visitor(address), visitor(address)
    act(one, "choose_left")
    job = one.submit(api_name="/choose_left")
    assert "choice 2 of 2" in act(other, "choose_left")[QUESTION]
    assert not job.done()
    go_on.set()
    assert "slow" in str(job.result(60)[DESCRIPTION])


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("", "none of 1 completions was well-formed"),
        (None, "the model could not be asked"),
        (UserError("server: nobody is at 127.0.0.1:9"), "nobody is at 127.0.0.1:9"),
    ],
)
def test_what_fails_is_told_and_tried_again(
    serve: Serve, failure: str | UserError | None, told: str
) -> None:
    describer = ScriptedDescriber(failure, "at last")
    client = visitor(serve(Rounds(PAIRS, 2), models(describer, ScriptedReplies("hi"))))
    shown = act(client, "choose_left", "choose_right")
    assert told in shown[QUESTION]
    assert "Nothing is lost: try again." in shown[QUESTION]
    shown = act(client, "again")
    assert "at last" in shown[DESCRIPTION]
    assert "Round 2, choice 1 of 2" in shown[QUESTION]


def test_replies_need_a_description_and_a_post_and_may_fail(serve: Serve) -> None:
    replies = ScriptedReplies(None, "for you", "for all")
    client = visitor(serve(Rounds(PAIRS, 1), models(ScriptedDescriber("x"), replies)))
    assert "choose first" in client.predict("a post", api_name="/reply")
    act(client, "choose_left")
    assert "There is no post yet" in client.predict(" \n", api_name="/reply")
    assert "Nothing is lost" in client.predict("a post", api_name="/reply")
    shown = client.predict("a post", api_name="/reply")
    assert shown.index("for you") < shown.index("for all")
    assert client.predict(api_name="/suggest") != client.predict(api_name="/suggest")


def test_hostile_texts_are_shown_as_they_are(serve: Serve) -> None:
    pair = Pair(HOSTILE, f"left {HOSTILE}", f"right {HOSTILE}")
    shared = models(ScriptedDescriber(f"x {HOSTILE}", HOSTILE), ScriptedReplies(HOSTILE))
    client = visitor(serve(Rounds((pair,) * 4, 1), shared))
    shown = act(client, "choose_left", "choose_left")
    shown.append(client.predict(HOSTILE, api_name="/reply"))
    for text in shown[QUESTION], shown[LEFT], shown[RIGHT], shown[HISTORY], shown[-1]:
        assert not set("{}$`") & set(text)
        assert "<script" not in text
        assert "<img" not in text
        assert HOSTILE in html.unescape(text)
    assert "<script" not in shown[DESCRIPTION]


def test_the_page_is_told_to_load_nothing_from_elsewhere(serve: Serve) -> None:
    address = serve(Rounds(PAIRS, 1), models(ScriptedDescriber("x"), ScriptedReplies("hi")))
    with urllib.request.urlopen(f"{address}config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False
    assert not [sheet for sheet in config["stylesheets"] or [] if "//" in sheet]
    texts = json.dumps(config["components"])
    assert "nothing is stored on a disk" in texts
    assert "By &lt;b&gt;nobody" in texts


def test_a_whole_session_with_the_models_that_ship(address: str) -> None:
    client = visitor(address)
    shown = act(client, "neither", "choose_left", "choose_right", "choose_left")
    assert "Round 1, choice 4 of 4. 1 pair skipped" in shown[QUESTION]
    for number in (1, 2, 3):
        shown = act(client, "choose_left")
        assert f"Version {number}, from 4 choices" in shown[DESCRIPTION]
        assert "prefers" in html.unescape(shown[DESCRIPTION])
        assert shown[HISTORY].count("<li") == number
        if number < 3:
            act(client, "choose_left", "choose_right", "choose_right")
    post = client.predict(api_name="/suggest")
    replies = client.predict(post, api_name="/reply")
    assert "Told version 3" in replies
    assert "Told nothing" in replies
    assert replies.count("card text") == 2
    assert "Round 1, choice 1 of 4" in act(client, "start_over")[QUESTION]

"""The page: what choices come to, and a visit in Chromium, where nothing leaves this machine."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from alignxplore_trl.cases import Comparison
from alignxplore_trl.demo import Demo, Visit, meaning, serve, truth
from alignxplore_trl.run.errors import UserError
from tests.inference.scripted import COMPLETION, describer, said, signals

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<script>alert(1)</script> <b>{{ 7 * 7 }}</b> ${x} **bold** [a](http://example.org)"
PAIRS = [pair for _, pair in signals(5)]


def visit_all(demo: Demo, sides: list[str]) -> Visit:
    visit = Visit()
    for side in sides:
        visit = demo.read(demo.choose(visit, side))
    return visit


def test_choices_are_read_round_by_round_and_the_rest_at_the_end() -> None:
    demo = Demo(PAIRS, describer())
    visit = visit_all(demo, ["left", "neither", "left", "left"])
    assert visit.versions == ("read 0 2",)
    assert visit.chosen == (PAIRS[3],)
    visit = visit_all(demo, ["left", "neither", "left", "left", "left", "left"])
    assert visit.versions == ("read 0 2", "read 0 2 3 4")
    assert demo.pair(visit) is None
    assert demo.choose(visit, "left") == visit, "no pairs are left"
    assert demo.choose(Visit(), "right").chosen == (Comparison("post 0", "other 0", "nice 0"),)


def test_a_failure_is_reported_and_nothing_is_lost() -> None:
    answers: Iterator[str | None] = iter(["no tags", None, COMPLETION.format("at last")])
    demo = Demo(PAIRS, describer(lambda prompt: next(answers), signals=1))
    visit = visit_all(demo, ["left"])
    assert visit.problem == "the completion can't be read: think_not_closed"
    assert visit.chosen == (PAIRS[0],)
    assert demo.read(visit) == visit, "until a button is clicked"
    visit = demo.read(demo.choose(visit, "neither"))
    assert "no answer {'timeout': 1}" in demo.status(visit)
    visit = demo.read(demo.choose(visit, "right"))
    assert (visit.versions, visit.problem, visit.chosen) == (("at last",), "", ())
    assert len(set(demo.describer.writer.seeds)) == 3, "the same once more would fail again"

    def refuse(prompt: str) -> str:
        raise UserError("the server is away")

    away = Demo(PAIRS, describer(refuse, signals=1))
    assert visit_all(away, ["left"]).problem == "the server is away"


def test_in_the_world_a_visitor_sees_what_is_right() -> None:
    brief = Comparison("fixing bikes", "tldr, hey", "pursuant, moreover")
    assert meaning(brief) == "brief"
    assert meaning(brief.reversed()) == "detailed"
    assert meaning(PAIRS[0]) is None
    told = truth(Visit(read=(brief, brief), versions=("prefers detailed", "prefers brief, warm")))
    assert told == "brief (2)\nThe description says: brief ✓, warm ✗"


Open = Callable[[Demo], "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium is not None, "no chromium on the PATH; install it: apt-get install chromium"
    # On its own, Chromium would ask its makers for updates and the like.
    quietly = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=quietly)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Open a page of this process; see that nothing goes wrong, and nothing else is loaded."""
    faults: list[str] = []
    closing: list[Callable[[], object]] = []

    def open_page(demo: Demo) -> Page:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        served, address = serve(demo, f"by {HOSTILE}", "127.0.0.1", port)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda own: own.type in ("error", "warning") and faults.append(own.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        here = (address, "data:", "blob:")
        page.on("request", lambda own: own.url.startswith(here) or faults.append(own.url))
        closing.extend([page.close, lambda: served.close(verbose=False)])
        page.goto(address)
        page.wait_for_selector("#left")
        return page

    yield open_page
    for close in closing:
        close()
    assert faults == []


def shows(page: Page, name: str, text: str) -> None:
    """Wait until a field begins with a text."""
    field = f"document.querySelector('#{name} textarea, #{name} input')"
    page.wait_for_function(f"text => {field}.value.startsWith(text)", arg=text)


@pytest.mark.browser
def test_a_visit_in_chromium(opened: Open) -> None:
    def write(prompt: str) -> str:
        time.sleep(0.5)
        return said(prompt).replace("read", f"brief {HOSTILE}")

    pairs = [Comparison(HOSTILE, "tldr, hey", "moreover, yep"), *PAIRS]
    page = opened(Demo(pairs, describer(write)))
    shows(page, "about", f"by {HOSTILE}")
    shows(page, "post", HOSTILE)
    page.click("#left")
    shows(page, "progress", "Round 1, choice 2 of 2")
    shows(page, "truth", "brief (1)")
    page.click("#neither")
    shows(page, "post", "post 1")
    page.click("#right")
    shows(page, "progress", "Reading 2 choices")
    shows(page, "progress", "Round 2, choice 1 of 2")
    shows(page, "description", f"brief {HOSTILE}")
    shows(page, "truth", "brief (1)\nThe description says: brief ✓")
    page.click("text=What the words of the replies stand for")
    page.wait_for_selector("text=tldr, nutshell")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") == 0
    for place in (2, 3):
        page.click("#left")
        shows(page, "post", f"post {place}" if place == 2 else "")
    shows(page, "progress", "Reading 2 choices")
    page.click("#start-over")
    page.wait_for_timeout(1500)
    shows(page, "progress", "Round 1, choice 1 of 2")
    shows(page, "description", "Nothing yet.")

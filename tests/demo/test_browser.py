"""The page in Chromium, clicked as a visitor would: nothing leaves this machine, nothing breaks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from alignxplore_trl.demo.pairs import Pair
from alignxplore_trl.demo.rounds import Rounds
from tests.demo.conftest import Serve
from tests.demo.scripted import ScriptedDescriber, ScriptedReplies, models
from tests.demo.test_page import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
# On its own, Chromium would ask its makers for updates and the like.
QUIETLY = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1100, 900), (390, 800)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium is not None, "no chromium on the PATH; install it: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=QUIETLY)
        yield started
        started.close()


@pytest.fixture
def faults(browser: Browser) -> Iterator[list[str]]:
    """What pages did that they shouldn't have: there is none at the end."""
    found: list[str] = []
    yield found
    assert found == []


def opened(browser: Browser, address: str, size: tuple[int, int], faults: list[str]) -> Page:
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)
    page.on("console", lambda line: line.type in ("error", "warning") and faults.append(line.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    here = ("http://127.0.0.1:", "data:", "blob:")
    page.on("request", lambda own: own.url.startswith(here) or faults.append(own.url))
    page.goto(address)
    page.wait_for_selector("#choose-left")
    return page


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    found: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return found


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_two_rounds_and_two_replies(
    browser: Browser, address: str, size: tuple[int, int], faults: list[str]
) -> None:
    page = opened(browser, address, size, faults)
    assert overflow(page) == 0
    page.click("#neither")
    page.wait_for_selector("text=1 pair skipped")
    for number in (1, 2):
        for choice in (1, 2, 3, 4):
            page.wait_for_selector(f"text=Round {number}, choice {choice} of 4")
            page.click("#choose-left" if choice < 4 else "#choose-right")
        page.wait_for_selector(f"#description >> text=Version {number}, from 4 choices")
        assert "prefers" in page.inner_text("#description .card")
    assert page.query_selector("#description .card ins, #description .card del")
    page.click("text=All versions")
    page.wait_for_selector("#history li")
    assert page.locator("#history li").count() == 2
    page.click("#suggest")
    page.wait_for_function("document.querySelector('#post textarea').value !== ''")
    page.click("#reply")
    page.wait_for_selector("text=Told nothing")
    assert all(page.locator("#replies .card").all_inner_texts())
    assert page.locator("#replies .card").count() == 2
    assert overflow(page) == 0
    page.click("#start-over")
    page.wait_for_selector("text=Round 1, choice 1 of 4")
    assert page.locator("#description .card").count() == 0
    page.close()


def test_hostile_texts_do_nothing(browser: Browser, serve: Serve, faults: list[str]) -> None:
    wide = f"{HOSTILE} {'w' * 300}"
    shared = models(ScriptedDescriber(wide, f"{wide} more"), ScriptedReplies(wide))
    page = opened(browser, serve(Rounds((Pair(wide, wide, wide),) * 3, 1), shared), PHONE, faults)
    for number in (1, 2):
        page.click("#choose-left")
        page.wait_for_selector(f"text=Version {number}, from 1 choice")
    page.click("#suggest")
    page.wait_for_function("document.querySelector('#post textarea').value !== ''")
    page.click("#reply")
    page.wait_for_selector("text=Told nothing")
    shown = [card.strip() for card in page.locator(".card").all_inner_texts()]
    assert shown == [wide, wide, wide, f"{wide} more", wide, wide]
    assert page.locator("ins").first.inner_text() == "more"
    assert page.locator(".card script, .card img, .card strong, .card code").count() == 0
    assert overflow(page) == 0
    page.close()


def test_a_failure_is_told_and_tried_again(
    browser: Browser, serve: Serve, faults: list[str]
) -> None:
    shared = models(ScriptedDescriber(None, "at last"), ScriptedReplies("hi"))
    pairs = tuple(Pair(f"post {n}", "left", "right") for n in range(3))
    page = opened(browser, serve(Rounds(pairs, 1), shared), DESKTOP, faults)
    page.click("#choose-right")
    page.wait_for_selector("text=Nothing is lost: try again.")
    assert page.is_disabled("#choose-left")
    page.click("#again")
    page.wait_for_selector("text=at last")
    assert page.is_enabled("#choose-left")
    page.wait_for_selector("#again", state="hidden")
    page.close()

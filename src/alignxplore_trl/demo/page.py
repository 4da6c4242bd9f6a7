"""The page: what a visit looks like, and which click does what.

Whatever visitors and models write is shown as it was written: `_shown` escapes it, for HTML and for
the templates that `gr.HTML` fills in what it is given.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from alignxplore_trl.demo.models import DemoModels
from alignxplore_trl.demo.rounds import Rounds, Version, Visit
from alignxplore_trl.inference.replies import NotRepliedError, PersonalReply
from alignxplore_trl.run.errors import UserError

TITLE = "What your choices say of you"
_KEPT = (
    "Your choices stay in the memory of the server of this page, for this visit alone: nothing is "
    "stored on a disk, and all is gone when you start over, or an hour after you close the page."
)
_TAGS = {"kept": "span", "added": "ins", "removed": "del"}
_CSS = Path(__file__).with_name("page.css")
_Updates = dict[Any, Any]


def build_page(rounds: Rounds, models: DemoModels, about: str) -> gr.Blocks:
    """The page, to be served by `served`.

    Args:
        rounds: what is chosen from, and when choices are read.
        models: that describe and reply.
        about: which models these are, in words.
    """
    page = gr.Blocks(title=TITLE, analytics_enabled=False)
    with page:
        _Page(rounds, models, about).connect()
    # A choice is taken at once, also while another visitor's are being read.
    page.queue(default_concurrency_limit=None)
    return page


@contextmanager
def served(page: gr.Blocks, host: str, port: int) -> Iterator[str]:
    """Serve a page within it, and give its address; the page loads nothing from elsewhere."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css_paths=_CSS,
    )
    try:
        yield address
    finally:
        page.close(verbose=False)


class _Page:
    """The components, laid out where it is made, and what they do."""

    def __init__(self, rounds: Rounds, models: DemoModels, about: str) -> None:
        self.rounds = rounds
        self.models = models
        self.visit = gr.State(Visit())
        self.times = gr.State(0)
        start = self._texts(Visit())
        gr.HTML(f"<h1>{TITLE}</h1><p>{_shown(about)}</p><p class='quiet'>{_KEPT}</p>")
        self.question = gr.HTML(start["question"], elem_id="question")
        with gr.Row():
            with gr.Column(min_width=260):
                self.left = gr.HTML(start["left"], elem_id="left")
                self.choose_left = gr.Button("I prefer this one", elem_id="choose-left")
            with gr.Column(min_width=260):
                self.right = gr.HTML(start["right"], elem_id="right")
                self.choose_right = gr.Button("I prefer this one", elem_id="choose-right")
        self.neither = gr.Button("Neither", size="sm", elem_id="neither")
        self.again = gr.Button("Try again", variant="primary", visible=False, elem_id="again")
        self.description = gr.HTML(start["description"], elem_id="description")
        with gr.Accordion("All versions", open=False):
            self.history = gr.HTML(start["history"], elem_id="history")
        gr.HTML("<h2>A reply to you, and one to anybody</h2>")
        self.post = gr.Textbox(label="Post", lines=2, max_lines=8, elem_id="post")
        with gr.Row():
            self.suggest = gr.Button("Suggest a post", elem_id="suggest")
            self.reply = gr.Button("Reply", variant="primary", elem_id="reply")
        self.replies = gr.HTML(elem_id="replies")
        self.start_over = gr.Button("Start over", size="sm", elem_id="start-over")

    def connect(self) -> None:
        """Say which click does what."""
        shows = list(self._show(Visit()))
        choices: dict[gr.Button, Callable[[Visit], Visit]] = {
            self.choose_left: partial(self.rounds.choose, side="left"),
            self.choose_right: partial(self.rounds.choose, side="right"),
            self.neither: self.rounds.skip,
            self.again: lambda visit: visit,
        }
        under_way: list[dict[str, Any]] = [
            button.click(
                partial(self._go_on, act), self.visit, shows,
                api_name=str(button.elem_id).replace("-", "_"), show_progress="hidden",
            )
            for button, act in choices.items()
        ]  # fmt: skip
        under_way += [
            gr.on(
                [self.reply.click, self.post.submit],
                self._reply,
                [self.visit, self.post, self.times],
                [self.times, self.replies],
                api_name="reply",
                show_progress="hidden",
            )
        ]
        self.suggest.click(
            lambda times: (times + 1, self.rounds.suggested_post(times)),
            self.times,
            [self.times, self.post],
            api_name="suggest",
            show_progress="hidden",
        )
        self.start_over.click(
            lambda: {**self._show(Visit()), self.post: "", self.replies: ""},
            outputs=[*shows, self.post, self.replies],
            api_name="start_over",
            cancels=under_way,  # Or else what comes of them would be there again.
            show_progress="hidden",
        )

    def _go_on(self, act: Callable[[Visit], Visit], visit: Visit) -> Iterator[_Updates]:
        visit = act(visit)
        if self.rounds.is_due(visit):
            yield self._show(visit, busy=True)
            visit = self.models.read_choices(visit)
        yield self._show(visit)

    def _reply(self, visit: Visit, post: str, times: int) -> Iterator[tuple[int, str]]:
        if visit.description is None:
            yield times, _problem("There is no description yet: choose first.")
            return
        if not (post or "").strip():
            yield times, _problem("There is no post yet: type one, or let one be suggested.")
            return
        yield times + 1, _quiet("Writing two replies …")
        try:
            personal, plain = self.models.reply(post, visit.description, times)
        except (NotRepliedError, UserError) as error:
            yield times + 1, _problem(f"{error}. Nothing is lost: ask for the reply again.")
            return
        told = _reply(f"Told version {len(visit.versions)}", personal)
        yield times + 1, f"<div class='beside'>{told}{_reply('Told nothing', plain)}</div>"

    def _show(self, visit: Visit, *, busy: bool = False) -> _Updates:
        """What a visit changes on the page; while its choices are read there is none to make."""
        can_choose = not busy and self.rounds.pair(visit) is not None
        buttons = (self.choose_left, self.choose_right, self.neither)
        return {
            self.visit: visit,
            **{getattr(self, name): text for name, text in self._texts(visit, busy=busy).items()},
            **{button: gr.update(interactive=can_choose) for button in buttons},
            self.again: gr.update(visible=not busy and self.rounds.is_due(visit)),
        }

    def _texts(self, visit: Visit, *, busy: bool = False) -> dict[str, str]:
        """The HTML of each component that shows a visit, by the component's name."""
        pair = self.rounds.pair(visit)
        asked = "Which one would you choose?" if pair and pair.form == "items" else (
            "Which reply do you prefer?"
        )  # fmt: skip
        post, left, right = (pair.post, pair.left, pair.right) if pair else ("", "", "")
        progress = _reading(visit) if busy else self._progress(visit)
        return {
            "question": f"<h2>{asked}</h2>{progress}{_card(post, 'post')}",
            "left": _card(left),
            "right": _card(right),
            "description": _description(visit),
            "history": _history(visit.versions),
        }

    def _progress(self, visit: Visit) -> str:
        count = len(visit.chosen)
        skipped = f" {_counted(visit.skipped, 'pair')} skipped, as no signal." * bool(visit.skipped)
        if visit.problem is not None:
            return _problem(f"No description: {visit.problem}. Nothing is lost: try again.")
        if self.rounds.pair(visit) is None:
            return _quiet(f"You have seen all pairs.{skipped}")
        number = f"Round {len(visit.versions) + 1}, choice {count + 1} of {self.rounds.per_round}."
        return _quiet(f"{number}{skipped}")


def _reading(visit: Visit) -> str:
    return _quiet(f"Reading {_counted(len(visit.chosen), 'choice')} …")


def _description(visit: Visit) -> str:
    heading = "<h2>What the model makes of your choices</h2>"
    if not visit.versions:
        return f"{heading}{_quiet('Nothing yet.')}"
    latest = visit.versions[-1]
    told = f"Version {len(visit.versions)}, from {_counted(latest.choices, 'choice')}"
    if len(visit.versions) > 1:
        told += " and the version before: <ins>added</ins><del>removed</del>"
    if latest.content.dropped_signals:
        told += f" ({latest.content.dropped_signals} left out: too long)"
    tagged = [(_TAGS[each.change], _shown(each.text)) for each in visit.changes]
    text = "".join(f"<{tag}>{piece}</{tag}>" for tag, piece in tagged)
    return f"{heading}<div class='card text'>{text}</div><p class='quiet'>{told}</p>"


def _history(versions: tuple[Version, ...]) -> str:
    rows = [f"<li class='text'>{_shown(each.content.description)}</li>" for each in versions]
    return f"<ol class='versions'>{''.join(rows)}</ol>" if rows else _quiet("Nothing yet.")


def _reply(heading: str, reply: PersonalReply) -> str:
    if len(reply.candidates) > 1:
        heading += f", best of {len(reply.candidates)}"
    return f"<div>{_quiet(heading)}{_card(reply.chosen.text)}</div>"


def _card(text: str, kind: str = "") -> str:
    return f"<div class='card text {kind}'>{_shown(text)}</div>"


def _quiet(text: str) -> str:
    return f"<p class='quiet' role='status'>{_shown(text)}</p>"


def _problem(text: str) -> str:
    return f"<p class='problem' role='alert'>{_shown(text)}</p>"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _shown(text: str) -> str:
    return html.escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "{}$`\\"})

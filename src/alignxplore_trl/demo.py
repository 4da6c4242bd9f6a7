"""A page: a visitor chooses between replies, and watches a description form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from alignxplore_trl.cases import Comparison
from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING, WORDINGS, stated_poles
from alignxplore_trl.inference.describer import PreferenceDescriber
from alignxplore_trl.run.errors import UserError

TITLE = "What your choices say of you"
_KEPT = (
    "Your choices stay in the memory of this page's server for this visit alone: nothing is "
    "written to a disk, and all is gone when you start over or an hour after you close the page."
)
_SIDES = {"left": "The left one", "neither": "Neither", "right": "The right one"}


@dataclass(frozen=True)
class Visit:
    """What is known of one visitor."""

    place: int = 0  # Of the pair that is shown.
    chosen: tuple[Comparison, ...] = ()  # No description has read these.
    read: tuple[Comparison, ...] = ()
    versions: tuple[str, ...] = ()  # Descriptions, oldest first.
    problem: str = ""  # Why the last reading failed.


@dataclass(frozen=True)
class Demo:
    """What all visitors share: pairs in their order, and the model that reads choices."""

    pairs: Sequence[Comparison]
    describer: PreferenceDescriber

    def pair(self, visit: Visit) -> Comparison | None:
        """What to choose from now; `None` if choices are to be read, or no pairs are left."""
        ready = len(visit.chosen) < self.describer.signals and visit.place < len(self.pairs)
        return self.pairs[visit.place] if ready else None

    def choose(self, visit: Visit, side: str) -> Visit:
        """A visit with the choice of `left` or `right`; `neither` is no signal."""
        if (pair := self.pair(visit)) is None:
            return replace(visit, problem="")  # They are read once more.
        choice = {"left": (pair,), "right": (pair.reversed(),), "neither": ()}[side]
        return replace(visit, place=visit.place + 1, chosen=(*visit.chosen, *choice))

    def read(self, visit: Visit) -> Visit:
        """A visit whose choices have been read, if they are due, or that says why they weren't."""
        if not visit.chosen or visit.problem or self.pair(visit):
            return visit
        self.describer.seed += 1  # After a failure, the same once more would fail again.
        try:
            own = self.describer.describe(visit.chosen, *visit.versions[-1:])
        except UserError as error:
            return replace(visit, problem=str(error))
        versions = (*visit.versions, own.description)
        return Visit(visit.place, (), visit.read + visit.chosen, versions)

    def status(self, visit: Visit) -> str:
        """What the page says above the replies."""
        if self.pair(visit):
            place = f"Round {len(visit.versions) + 1}, choice {len(visit.chosen) + 1}"
            return f"{place} of {self.describer.signals}"
        if visit.problem:
            return f"No description: {visit.problem}. Nothing is lost: any button tries again."
        return f"Reading {len(visit.chosen)} choices …" if visit.chosen else "No pairs are left."


def meaning(choice: Comparison) -> str | None:
    """The pole that a choice stands for in the simulated world; `None` outside it."""
    chosen, rejected = (
        {POLE_OF_WORDING[word] for word in re.findall(r"\w+", text) if word in POLE_OF_WORDING}
        for text in (choice.chosen, choice.rejected)
    )
    return next((pole for pole in sorted(chosen) if OPPOSITE[pole] in rejected), None)


def truth(visit: Visit) -> str:
    """What choices in the simulated world stand for, and what a description got right of it."""
    poles = Counter(pole for choice in visit.read + visit.chosen if (pole := meaning(choice)))
    lines = [", ".join(f"{pole} ({count})" for pole, count in poles.most_common())]
    for version in visit.versions[-1:]:
        right = {pole: poles[pole] > poles[OPPOSITE[pole]] for pole in stated_poles(version)}
        said = ", ".join(f"{pole} {'✓' if own else '✗'}" for pole, own in right.items())
        lines.append(f"The description says: {said or 'none of them'}")
    return "\n".join(lines)


def serve(demo: Demo, about: str, host: str, port: int) -> tuple[gr.Blocks, str]:
    """Serve the page from threads of this process, and return it with its address.

    `about` says which model describes. The page loads nothing from elsewhere; `close` ends it. The
    host 0.0.0.0 lets other machines open it.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        _lay_out(demo, about)
    page.queue(default_concurrency_limit=None)  # Choices are taken while others' are being read.
    fonts: Any = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, ssr_mode=False, quiet=True,
        prevent_thread_lock=True, footer_links=[], theme=gr.themes.Default(**fonts),
    )  # fmt: skip
    return page, address


def _lay_out(demo: Demo, about: str) -> None:
    """What a visitor sees, each field a function of the visit, and what a click does."""
    visits, is_world = gr.State(Visit()), meaning(demo.pairs[0]) is not None

    def text(label: str, name: str, value: Callable[[Visit], str], **more: Any) -> None:
        gr.Textbox(value, label=label, inputs=visits, elem_id=name, interactive=False, **more)

    gr.Markdown(f"# {TITLE}\n\n{_KEPT}")
    text("Model", "about", lambda visit: about)
    text("Which reply do you prefer?", "progress", demo.status)
    text("Post", "post", lambda visit: getattr(demo.pair(visit), "post", ""))
    with gr.Row():
        text("This reply", "left-text", lambda visit: getattr(demo.pair(visit), "chosen", ""))
        text("Or this one", "right-text", lambda visit: getattr(demo.pair(visit), "rejected", ""))
    quietly: Any = {"outputs": visits, "show_progress": "hidden"}
    with gr.Row():
        for side, label in _SIDES.items():
            button = gr.Button(label, elem_id=side)
            button.click(partial(demo.choose, side=side), visits, **quietly)
    made, holds = "What the model makes of your choices", "What your choices stand for here"
    text(made, "description", lambda visit: ["Nothing yet.", *visit.versions][-1], lines=2)
    text(holds, "truth", truth, lines=2, visible=is_world)
    earlier = "Earlier versions, newest first"
    text(earlier, "earlier", lambda visit: "\n".join(visit.versions[-2::-1]), lines=2)
    with gr.Accordion("What the words of the replies stand for", open=False, visible=is_world):
        rows = [
            [pole, name, ", ".join(words)]
            for name, poles in WORDINGS.items()
            for pole, words in poles.items()
        ]
        gr.Dataframe(rows, headers=["preference", "dimension", "words"], interactive=False)
    # A model of this process can't be asked by two threads at once.
    reading: Any = visits.change(demo.read, visits, concurrency_limit=1, **quietly)
    # What is being read is cancelled: what comes of it would be there again.
    start_over = gr.Button("Start over", size="sm", elem_id="start-over")
    start_over.click(Visit, None, cancels=reading, **quietly)

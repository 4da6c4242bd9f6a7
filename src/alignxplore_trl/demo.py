"""A page: a visitor chooses between replies, and watches a description form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import gradio as gr

from alignxplore_trl.cases import Comparison
from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING, WORDINGS, stated_poles
from alignxplore_trl.inference.describer import NotDescribedError, PreferenceDescriber
from alignxplore_trl.run.errors import UserError

TITLE = "What your choices say of you"
_KEPT = (
    "Your choices stay in the memory of this page's server for this visit alone: nothing is "
    "written to a disk, and all is gone when you start over or an hour after you close the page."
)


@dataclass(frozen=True)
class Visit:
    """What is known of one visitor.

    Attributes:
        place: of the pair that is shown.
        chosen: choices that no description has read yet.
        read: choices that were read.
        versions: descriptions, oldest first.
        problem: why the last reading failed.
    """

    place: int = 0
    chosen: tuple[Comparison, ...] = ()
    read: tuple[Comparison, ...] = ()
    versions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Demo:
    """What all visitors share: pairs in their order, choices that are read at once, the model."""

    pairs: Sequence[Comparison]
    per_round: int
    describer: PreferenceDescriber
    _turn: Lock = field(default_factory=Lock)

    def pair(self, visit: Visit) -> Comparison | None:
        """What to choose from now; `None` if choices are to be read, or no pairs are left."""
        ready = len(visit.chosen) < self.per_round and visit.place < len(self.pairs)
        return self.pairs[visit.place] if ready else None

    def choose(self, visit: Visit, side: str) -> Visit:
        """A visit with the choice of `left` or `right`; `neither` is no signal."""
        if (pair := self.pair(visit)) is None:
            return visit
        choice = {"left": (pair,), "right": (pair.reversed(),), "neither": ()}[side]
        return replace(visit, place=visit.place + 1, chosen=(*visit.chosen, *choice))

    def read(self, visit: Visit) -> Visit:
        """A visit whose choices have been read; or one that says why they could not be."""
        try:
            with self._turn:  # Models of this process can't be asked by two threads at once.
                request = (visit.versions[-1] if visit.versions else None, visit.chosen)
                [outcome] = self.describer.write([request])
                self.describer.seed += 1  # After a failure, the same once more would fail again.
        except UserError as error:
            return replace(visit, problem=str(error))
        if isinstance(outcome, NotDescribedError):
            return replace(visit, problem=str(outcome))
        versions = (*visit.versions, outcome.description)
        return Visit(visit.place, (), visit.read + visit.chosen, versions)


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
    """Serve the page from threads of this process; it loads nothing from elsewhere.

    Args:
        demo: what visitors share.
        about: which model describes, in words.
        host: 0.0.0.0 lets other machines open it.
        port: of the page.

    Returns:
        The page, which `close` ends, and its address.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        _lay_out(demo, about, page)
    page.queue(default_concurrency_limit=None)  # Choices are taken while others' are being read.
    fonts: Any = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, ssr_mode=False, quiet=True,
        prevent_thread_lock=True, footer_links=[], theme=gr.themes.Default(**fonts),
    )  # fmt: skip
    return page, address


def _lay_out(demo: Demo, about: str, page: gr.Blocks) -> None:
    """The components, and which click does what."""
    visits, is_world = gr.State(Visit()), meaning(demo.pairs[0]) is not None

    def text(label: str, name: str, **more: Any) -> gr.Textbox:
        return gr.Textbox(label=label, elem_id=name, interactive=False, **more)

    gr.Markdown(f"# {TITLE}\n\n{_KEPT}")
    text("Model", "about", value=about)
    progress, post = text("Which reply do you prefer?", "progress"), text("Post", "post")
    with gr.Row():
        replies = [text("This reply", "left-text"), text("Or this one", "right-text")]
    with gr.Row():
        sides = {"left": "The left one", "neither": "Neither", "right": "The right one"}
        buttons = {side: gr.Button(label, elem_id=side) for side, label in sides.items()}
    description = text("What the model makes of your choices", "description", lines=2)
    known = text("What your choices stand for here", "truth", lines=2, visible=is_world)
    earlier = text("Earlier versions, newest first", "earlier", lines=2)
    start_over = gr.Button("Start over", size="sm", elem_id="start-over")
    with gr.Accordion("What the words of the replies stand for", open=False, visible=is_world):
        poles = {pole: (name, words) for name, of in WORDINGS.items() for pole, words in of.items()}
        rows = [[pole, name, ", ".join(words)] for pole, (name, words) in poles.items()]
        gr.Dataframe(rows, headers=["preference", "dimension", "words"], interactive=False)

    def show(visit: Visit, busy: bool = False) -> dict[Any, Any]:
        pair = None if busy else demo.pair(visit)
        count = f"Round {len(visit.versions) + 1}, choice {len(visit.chosen) + 1}"
        where = f"{count} of {demo.per_round}" if pair else "You have seen all pairs."
        if busy:
            where = f"Reading {len(visit.chosen)} choices …"
        elif visit.problem:
            where = f"No description: {visit.problem}. Nothing is lost: any button tries again."
        texts = (pair.post, pair.chosen, pair.rejected) if pair else ("", "", "")
        can_click = pair is not None or (bool(visit.problem) and not busy)
        return {
            visits: visit,
            progress: where,
            **dict(zip((post, *replies), texts, strict=True)),
            **{button: gr.update(interactive=can_click) for button in buttons.values()},
            description: visit.versions[-1] if visit.versions else "Nothing yet.",
            known: truth(visit),
            earlier: "\n".join(reversed(visit.versions[:-1])),
        }

    def on_click(side: str) -> Callable[[Visit], Iterator[dict[Any, Any]]]:
        def go_on(visit: Visit) -> Iterator[dict[Any, Any]]:
            visit = demo.choose(visit, side)
            if visit.chosen and demo.pair(visit) is None:
                yield show(visit, busy=True)
                visit = demo.read(visit)
            yield show(visit)

        return go_on

    shown = list(show(Visit()))
    under_way: list[Any] = [
        button.click(on_click(side), visits, shown, show_progress="hidden")
        for side, button in buttons.items()
    ]
    # What is under way is cancelled: what comes of it would be there again.
    start_over.click(
        lambda: show(Visit()), outputs=shown, show_progress="hidden", cancels=under_way
    )
    page.load(lambda: show(Visit()), outputs=shown, show_progress="hidden")

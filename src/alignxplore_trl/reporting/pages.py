"""What all HTML pages share: how templates are rendered, how texts and charts are put into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from alignxplore_trl.reporting.tables import Table

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Black and white of a chart follow the page: its text, its ground.
_FOLLOWS_PAGE = ((": #000000", ": currentColor"), (": #ffffff", ": var(--ground)"))
# The part of a chart's width that stays readable on a narrow screen; the rest is scrolled to.
_LEAST_WIDTH = 0.65


@dataclass(frozen=True)
class Text:
    """A paragraph, and what it begins with in bold letters."""

    text: str
    lead: str = ""
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Listing:
    """Text that stands as it is, such as a configuration."""

    text: str
    kind: Literal["listing"] = "listing"


@dataclass(frozen=True)
class Numbers:
    """A table."""

    table: Table
    kind: Literal["numbers"] = "numbers"


@dataclass(frozen=True)
class Drawing:
    """A picture.

    Attributes:
        name: of its PNG file, without the ending.
        says: what can be read off it, for those who don't see it.
        markup: the picture as a part of a page.
    """

    name: str
    says: str
    markup: Markup
    kind: Literal["drawing"] = "drawing"


@dataclass(frozen=True)
class Fold:
    """Blocks under a heading that unfold them."""

    title: str
    blocks: Sequence[Block]
    is_open: bool = False
    kind: Literal["fold"] = "fold"


Block = Text | Listing | Numbers | Drawing | Fold


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: its id in the page.
        title: its heading.
        blocks: what stands in it.
        is_missing: there was nothing to show; the blocks say why, and how to mend it.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    is_missing: bool = False


def missing(anchor: str, title: str, reason: str) -> Section:
    """A section that says why it is empty."""
    return Section(anchor, title, [Text(reason)], is_missing=True)


def visible(text: str) -> str:
    """The text with what a terminal would obey made visible: escapes, and turns of direction."""
    return _OBEYED.sub(lambda match: _shown(match[0]), text)


def render_template(template: str, **values: Any) -> str:
    """A template of this folder; in HTML every value but `Markup` is escaped."""
    return _environment().get_template(template).render(values)


def draw(folder: Path, name: str, says: str, chart: Callable[[Path], None]) -> Drawing:
    """Draw a chart as `<name>.png` in a folder, and as a part of a page.

    Args:
        folder: where the PNG file goes.
        name: of the file, unique among the page's pictures.
        says: what can be read off it.
        chart: writes it to a path, whose ending says in which format.
    """
    chart(folder / f"{name}.png")
    path = folder / f"{name}.svg"
    chart(path)
    markup = svg_for_page(path.read_text(encoding="utf-8"), name)
    path.unlink()
    return Drawing(name, says, markup)


def svg_for_page(svg: str, name: str) -> Markup:
    """An SVG of matplotlib as a part of a page, in the page's colours, its ids apart from others'.

    Args:
        svg: the file's text; what users wrote is escaped in it already.
        name: unique among the page's pictures.
    """
    start = svg.index("<svg")
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for fixed, followed in _FOLLOWS_PAGE:
        body = body.replace(fixed, followed)
    width = re.search(r'width="([\d.]+)pt"', body)
    assert width is not None
    least = f'style="min-width: {_LEAST_WIDTH * float(width[1]):.0f}pt" '
    return Markup(body.replace("<svg ", f'<svg aria-hidden="true" {least}', 1))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["markdown"] = _markdown
    environment.filters["fence"] = _fence
    return environment


def _shown(char: str) -> str:
    """␛ for an escape, ⟨U+202E⟩ for what has no picture."""
    code = ord(char)
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def _markdown(text: str) -> str:
    """A value in a line of Markdown, or in a cell of a table: nothing in it is obeyed."""
    line = " ".join(visible(str(text)).split())
    escaped = re.sub(r"([\\`*_{}\[\]()#!|~$])", r"\\\1", line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fence(text: str) -> str:
    """Backticks that can stand around a text as a block of code: more than stand in it."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))

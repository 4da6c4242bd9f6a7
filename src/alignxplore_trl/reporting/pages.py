"""HTML pages that load nothing: every text in them is escaped, and what it could hide is shown."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# What a terminal obeys, and turns of writing direction.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: object) -> str:
    """The text with control characters and turns of writing direction made visible, as ⟨U+202E⟩."""
    return _OBEYED.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", str(text))


def render_page(template: str, **values: object) -> str:
    """A page from a template of this folder."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        # What a macro of these templates has rendered is escaped already.
        finalize=lambda value: value if isinstance(value, Markup) else visible(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )

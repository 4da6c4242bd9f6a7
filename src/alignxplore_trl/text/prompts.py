"""Templates and the one renderer. Values can't close the slots they are put in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignxplore_trl.cases import Attributes, Comparison, Post
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.completions import DESCRIPTION_PLACEHOLDER, REASONING_PLACEHOLDER

SHIPPED = Path(__file__).parent / "templates"
_REQUIRED = ("inference", "teacher", "judgement", "reply")
_SIGNALS = [Comparison("a", "b", "c"), Post("a", "b"), Attributes("a")]
_JUDGED = {"post": "a", "description": "a", "response_a": "a", "response_b": "a"}
# What each template is given, by examples with which it is tried when a folder is opened.
EXAMPLES: dict[str, dict[str, Any]] = {
    "inference": {"signals": _SIGNALS, "earlier": "a"},
    "teacher": {"signals": _SIGNALS, "earlier": "a", "dimensions": ["a"]},
    "judgement": _JUDGED,
    "judgement_description_last": _JUDGED,
    "reply": {"post": "a", "description": "a"},
    "problem": {"problem": "a"},
    "dimensions": {"signals": _SIGNALS},
    "concise": {"signals": _SIGNALS, "earlier": "a"},
    "rule_proposal": {"signals": _SIGNALS},
    # decided: of each signal, whether the rule led to the other reply, and not to none.
    "rule_feedback": {"signals": _SIGNALS[:1], "decided": [True]},
}
_TAG_NAME = re.compile(r"</?([A-Za-z_]\w*)>")
_MARKER = re.compile(r"\*([^*\n]+):\*")
_TURN = re.compile(r"^(User|Assistant):", re.MULTILINE)
# What tokenizers read as the end of a text or turn wherever it stands, beside `<|…|>`; the format.
_ALWAYS = {"s", "bos", "eos", "start_of_turn", "end_of_turn", "think", "answer"}


class Prompts:
    """The templates of one folder, rendered with values that can't break out of their slots.

    `folder` is a path, or the name of one that ships: `default`, `compact` or `items`. It needs
    `inference.jinja` and `teacher.jinja` (both end by opening `<think>`), `judgement.jinja` (ends
    where the JSON selection starts) and `reply.jinja` (where the reply starts); what they include
    may stand in `default`. Their tags, markers (`*Post:*`) and turns (`User:`) and control tokens
    (`<|im_end|>`) are reserved: inside a value their first character is escaped, in linear time.
    Raises UserError where a template is missing or isn't valid, or uses a name it isn't given.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = SHIPPED / folder if (SHIPPED / folder).is_dir() else Path(folder)
        if missing := [f"{name}.jinja" for name in _REQUIRED if not self._has(name)]:
            lacks, ships = ", ".join(missing), sorted(path.name for path in SHIPPED.iterdir())
            raise UserError(f"prompts.folder: {folder} has no {lacks}; folders that ship: {ships}")
        loader = FileSystemLoader([self.folder, SHIPPED / "default", SHIPPED])
        self._environment = ImmutableSandboxedEnvironment(
            loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
            auto_reload=False, finalize=lambda value: self.guard(str(value)),
        )  # fmt: skip
        self._environment.globals["reasoning_placeholder"] = REASONING_PLACEHOLDER
        self._environment.globals["description_placeholder"] = DESCRIPTION_PLACEHOLDER
        try:
            self._reserved = _reserved_pattern(self._sources(loader))
            for name, values in EXAMPLES.items():
                if self._has(name):
                    nothing = dict.fromkeys({"earlier", "description"} & values.keys())
                    self.render(name, **values)
                    self.render(name, **{**values, **nothing})
        except (TemplateError, UnicodeDecodeError) as error:
            raise UserError(f"{self.folder}: not a valid template: {error}") from error

    def render(self, name: str, **values: Any) -> str:
        """A prompt, such as `render("inference", signals=…, earlier=…)`; see `EXAMPLES`."""
        if not self._has(name):
            raise UserError(
                f"prompts.folder: {self.folder} lacks {name}.jinja; see that of default"
            )
        return self._environment.get_template(f"{name}.jinja").render(**values)

    def guard(self, text: str) -> str:
        """Escape what would read as a tag, marker or turn of the templates, or a control token."""
        return self._reserved.sub(_escape_first_character, text)

    def __reduce__(self) -> tuple[type[Prompts], tuple[Path]]:
        return Prompts, (self.folder,)  # Compiled templates can't be pickled.

    def _has(self, name: str) -> bool:
        return (self.folder / f"{name}.jinja").is_file()

    def _sources(self, loader: FileSystemLoader) -> str:
        """The words of all templates, those that they include among them."""
        found: dict[str | None, str] = {}
        waiting: set[str | None] = {file.name for file in self.folder.glob("*.jinja")}
        while names := waiting - found.keys() - {None}:
            for name in names:
                found[name] = loader.get_source(self._environment, str(name))[0]
                waiting |= set(meta.find_referenced_templates(self._environment.parse(found[name])))
        return "\n".join(found.values())


def _escape_first_character(match: re.Match[str]) -> str:
    first, rest = match[0][0], match[0][1:]
    return ("&lt;" if first == "<" else f"&#{ord(first)};") + rest


def _reserved_pattern(source: str) -> re.Pattern[str]:
    """Match in a value what stands in the templates; blanks are never tried twice: it is linear."""
    tags = _any_of(_ALWAYS.union(_TAG_NAME.findall(source)))
    markers, turns = _any_of(_MARKER.findall(source)), _any_of(_TURN.findall(source))
    return re.compile(
        rf"<(?=\s*+(?:[|｜]|/?\s*+(?:{tags})\b))"
        rf"|\*(?=\s*+(?:{markers})\s*+:)|(?m:^)(?-i:{turns})(?=\s*+:)",
        re.IGNORECASE,
    )


def _any_of(names: Iterable[str]) -> str:
    return "|".join(sorted(set(map(re.escape, names)))) or "(?!)"  # This nothing matches.

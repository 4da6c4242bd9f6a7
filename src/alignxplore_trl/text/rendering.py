"""Templates and the one renderer. Values can't close the slots they are put in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post, Signal, signal_to_dict
from alignxplore_trl.text.parsing import DESCRIPTION_PLACEHOLDER, REASONING_PLACEHOLDER

SHIPPED_PROMPTS = Path(__file__).parent / "prompts"
TEMPLATE_NAMES = ("inference", "teacher", "judgement", "reply")
_OPTIONAL = ("problem", "dimensions", "concise", "rule_proposal", "rule_feedback")

# Where the description stands in a judge's prompt. First: before what it is to be compared with.
# Last: the rollouts of a case then share all that comes before it, which is quicker to read.
Layout = Literal["description_first", "description_last"]
_JUDGEMENTS: dict[Layout, str] = {
    "description_first": "judgement",
    "description_last": "judgement_description_last",
}

_TAG_NAME = re.compile(r"</?([A-Za-z_]\w*)>")
_STARRED_MARKER = re.compile(r"\*([^*\n]+):\*")
# How tokenizers write what ends a text or a turn of a chat, beside `<|…|>`: they read it as such
# wherever it stands.
_CONTROL_TAGS = {"s", "bos", "eos", "start_of_turn", "end_of_turn"}


@dataclass(frozen=True)
class Question:
    """What a judge is asked: which response would the described user prefer?

    `description` is `None` when the judge is to decide without one (the method called null).
    """

    post: str
    description: str | None
    response_a: str
    response_b: str


class PromptSet:
    """The templates of one folder, rendered with values that can't break out of their slots.

    A folder holds `inference.jinja` (signals and the earlier description, ends by opening
    `<think>`), `teacher.jinja` (the same with the dimensions as guidance), `judgement.jinja` (ends
    where the JSON selection starts) and `reply.jinja` (post and description, ends where the
    response starts). `judgement_description_last.jinja`, the judgement in which the description
    comes after post and responses, is needed by judges of that layout only; `problem.jinja`, which
    leads from a problem text to the completion, by published RL rows only; `dimensions.jinja`,
    which asks for a JSON list of names about one signal, where the teacher names the dimensions;
    `concise.jinja`, which asks for a description without reasoning, where language models are
    prompted so; `rule_proposal.jinja` and `rule_feedback.jinja` by LMInductReason.
    Tags such as `<post>` and markers such as `*Post:*` that stand in any of them are reserved, and
    so are the control tokens of models, such as `<|im_end|>`: inside a value their first character
    is escaped.

    Args:
        folder: a path, or the name of a set that ships (`default`, `compact`).

    Raises:
        UserError: the folder or a template is missing, is not valid Jinja, or uses a name that
            it is not given.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = _find_folder(folder)
        self._reserved = _reserved_pattern(
            "".join(file.read_text() for file in sorted(self.folder.glob("*.jinja")))
        )
        environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(self.folder),
            undefined=StrictUndefined,
            finalize=self._guard,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals["reasoning_placeholder"] = REASONING_PLACEHOLDER
        environment.globals["description_placeholder"] = DESCRIPTION_PLACEHOLDER
        try:
            self._templates = {
                name: environment.get_template(f"{name}.jinja")
                for name in (*TEMPLATE_NAMES, *_OPTIONAL, _JUDGEMENTS["description_last"])
                if (self.folder / f"{name}.jinja").is_file()
            }
            self._render_each_once()
        except TemplateError as error:
            raise UserError(f"{self.folder}: not a valid template: {error}") from error

    def __reduce__(self) -> tuple[type[PromptSet], tuple[Path]]:
        """Pickled by its folder: compiled templates can't be."""
        return PromptSet, (self.folder,)

    def inference(self, signals: Sequence[Signal], earlier: str | None) -> str:
        """The policy's prompt: new signals and the earlier description, if there is one."""
        return self._templates["inference"].render(
            signals=[signal_to_dict(signal) for signal in signals], earlier=earlier
        )

    def teacher(
        self, signals: Sequence[Signal], earlier: str | None, dimensions: Sequence[str]
    ) -> str:
        """The teacher's prompt: as `inference`, with the names of dimensions that may matter."""
        return self._templates["teacher"].render(
            signals=[signal_to_dict(signal) for signal in signals],
            earlier=earlier,
            dimensions=list(dimensions),
        )

    def judgement(self, question: Question, layout: Layout = "description_first") -> str:
        """The judge's prompt, up to where its JSON selection starts.

        Raises:
            UserError: the set has no template of this layout.
        """
        template = self._template(
            _JUDGEMENTS[layout],
            f"which a judge with layout {layout} is asked with; add it, or choose layout "
            "description_first",
        )
        return template.render(
            post=question.post,
            description=question.description,
            response_a=question.response_a,
            response_b=question.response_b,
        )

    def reply(self, post: str, description: str | None) -> str:
        """The generator's prompt for R_gen, up to where the response starts."""
        return self._templates["reply"].render(post=post, description=description)

    def problem(self, problem: str) -> str:
        """The policy's prompt for a problem text that was written elsewhere, whole.

        Raises:
            UserError: the set has no template for it.
        """
        template = self._template(
            "problem", "which leads from a published problem text to the completion; add it"
        )
        return template.render(problem=problem)

    def dimensions(self, signal: Signal) -> str:
        """The teacher's prompt for the names of the dimensions that one signal speaks to.

        Raises:
            UserError: the set has no template for it.
        """
        template = self._template(
            "dimensions",
            "with which a teacher is asked for dimensions; add it, or choose "
            "synthesis.dimensions=known or none",
        )
        return template.render(signals=[signal_to_dict(signal)], earlier=None)

    def concise(self, signals: Sequence[Signal], earlier: str | None) -> str:
        """The prompt for a description without reasoning; it may end by opening `<answer>`.

        Raises:
            UserError: the set has no template for it.
        """
        template = self._template(
            "concise", "with which prompted_concise asks; add it, or leave that method out"
        )
        return template.render(signals=list(map(signal_to_dict, signals)), earlier=earlier)

    def rule_proposal(self, signals: Sequence[Signal]) -> str:
        """LMInductReason's prompt for a rule that agrees with the user's choices.

        Raises:
            UserError: the set has no template for it.
        """
        template = self._template(
            "rule_proposal", "with which lm_induct_reason asks; add it, or leave that method out"
        )
        return template.render(signals=list(map(signal_to_dict, signals)), earlier=None)

    def rule_feedback(self, failures: Sequence[Comparison], decided: Sequence[bool]) -> str:
        """LMInductReason's next prompt: the choices that the last rule fails on.

        Args:
            failures: these choices.
            decided: of each, whether the rule led to the other reply; otherwise to none.

        Raises:
            UserError: the set has no template for it.
        """
        template = self._template(
            "rule_feedback", "with which lm_induct_reason asks; add it, or leave that method out"
        )
        return template.render(
            signals=list(map(signal_to_dict, failures)), decided=list(decided), earlier=None
        )

    def as_value(self, text: str) -> str:
        """A text as it stands in a slot, for what is put together without a template."""
        return self._guard(text)

    def _template(self, name: str, purpose: str) -> Template:
        """A template that not every set has."""
        if name not in self._templates:
            raise UserError(f"prompts.folder: {self.folder} has no {name}.jinja, {purpose}")
        return self._templates[name]

    def _render_each_once(self) -> None:
        """Meet a name that isn't defined now, and not after the models are loaded."""
        signals: list[Signal] = [
            Comparison("a", "b", "c"),
            Comparison("a", "b", "c", "items"),
            Post("a", "b"),
            Attributes("a"),
        ]
        for earlier in ("a", None):
            self.inference(signals, earlier)
            self.teacher(signals, earlier, ["a"])
            for layout, name in _JUDGEMENTS.items():
                if name in self._templates:
                    self.judgement(Question("a", earlier, "b", "c"), layout)
            self.reply("a", earlier)
        if "problem" in self._templates:
            self.problem("a")
        if "dimensions" in self._templates:
            for signal in signals:
                self.dimensions(signal)
        if "concise" in self._templates:
            self.concise(signals, "a")
        if "rule_proposal" in self._templates:
            self.rule_proposal(signals)
        if "rule_feedback" in self._templates:
            self.rule_feedback([Comparison("a", "b", "c")] * 2, [True, False])

    def _guard(self, value: object) -> str:
        """Escape what would read as a tag or marker of the templates, or as a control token."""
        return self._reserved.sub(_escape_first_character, str(value))


def _escape_first_character(match: re.Match[str]) -> str:
    text = match[0]
    return ("&lt;" if text[0] == "<" else "&#42;") + text[1:]


def _reserved_pattern(source: str) -> re.Pattern[str]:
    """Match, in a value, anything a reader could take for a tag or marker of these templates."""
    tags = {"think", "answer"} | _CONTROL_TAGS | set(_TAG_NAME.findall(source))
    markers = set(_STARRED_MARKER.findall(source))
    patterns = [rf"<(?=\s*[|｜]|\s*/?\s*(?:{'|'.join(sorted(map(re.escape, tags)))})\b)"]
    if markers:
        patterns.append(rf"\*(?=\s*(?:{'|'.join(sorted(map(re.escape, markers)))})\s*:)")
    return re.compile("|".join(patterns), re.IGNORECASE)


def _find_folder(folder: str | Path) -> Path:
    shipped = SHIPPED_PROMPTS / str(folder)
    path = shipped if shipped.is_dir() else Path(folder)
    missing = [f"{name}.jinja" for name in TEMPLATE_NAMES if not (path / f"{name}.jinja").is_file()]
    if missing:
        names = ", ".join(sorted(item.name for item in SHIPPED_PROMPTS.iterdir()))
        raise UserError(
            f"prompts.folder: {folder} has no {', '.join(missing)}; give a folder with "
            f"{', '.join(f'{name}.jinja' for name in TEMPLATE_NAMES)}, or one of: {names}"
        )
    return path

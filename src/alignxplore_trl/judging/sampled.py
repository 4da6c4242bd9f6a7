"""A judge that writes its answer, with or without reasoning before it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignxplore_trl.judging.protocol import Layout, Question, Verdict, judgement
from alignxplore_trl.text.prompts import Prompts

Letter = Literal["A", "B"]
_START = '{"selection": "Response'
# What stands behind a key `selection`, up to what ends a value; in time linear in the text.
_VALUE = re.compile(
    r"(?:(?<=[{,\"'“‘*`\\])|(?<=[{,\n]\s))selection\b[\"'”’*`\\]{0,4}\s{0,9}[:=]\s{0,9}([^,{}\n]{1,60})",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:the )?(?:(?:response|reply|option)[\s_-]{0,3})?\(?([ab])\)?\.?", re.IGNORECASE
)
_MARKS = "\"'“”„«»‘’*`_\\ \t"


@dataclass(eq=False)
class SampledJudge:
    """The share of a judge's answers that name A, among those that name one of the two.

    An answer that can't be read is left out, and is never a vote.

    Attributes:
        writer: writes the answers, by its own temperature; without `chat`, the answer's JSON is
            begun for it.
        prompts: a prompt folder; its judgement template of the layout is used.
        samples: answers to each question.
        layout: where the description stands.
        minimum_label_mass: a verdict is `None` if less than this share of its answers is readable.
    """

    writer: Any
    prompts: str
    samples: int = 1
    layout: Layout = "description_first"
    minimum_label_mass: float = 0.5

    def __post_init__(self) -> None:
        self._templates, self._unreadable = Prompts(self.prompts), 0
        self._start = "" if self.writer.chat else _START

    @property
    def counts(self) -> Counter[str]:
        """Questions without an answer, by reason."""
        return Counter(self.writer.counts) + Counter(unreadable=self._unreadable)

    def load(self) -> None:
        """Bring weights into memory, or try the server."""
        self.writer.load()

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Answer each question, equal ones once; `None` where too few answers can be read."""
        distinct = list(dict.fromkeys(questions))
        prompts = [judgement(self._templates, each, self.layout) + self._start for each in distinct]
        written = self.writer.write(prompts, samples=self.samples)
        found = {
            question: self._verdict([own.text for own in answers if own is not None])
            for question, answers in zip(distinct, written, strict=True)
        }
        return [found[question] for question in questions]

    def _verdict(self, answers: Sequence[str]) -> Verdict | None:
        letters = [letter for text in answers if (letter := self._read(text))]
        label_mass = len(letters) / self.samples
        if letters and label_mass >= self.minimum_label_mass:
            return Verdict(letters.count("A") / len(letters), label_mass)
        self._unreadable += bool(answers)
        return None

    def _read(self, text: str) -> str | None:
        if not self._start:
            return read_selection(text)
        # Of an answer that was begun, what stands behind the letter doesn't matter.
        letter = re.match(r"\s*([AB])\b", text)
        return letter[1] if letter else None


def read_selection(answer: str) -> Letter | None:
    """The letter that an answer like `{"selection": "Response A"}` names, `None` without one.

    JSON, Python's dicts and what lies between are read, alone or behind reasoning. The last line
    with a selection counts; all that it has must agree. A reasoning block that isn't closed leaves
    no answer.
    """
    text = re.split(r"</think(?:ing)?>", answer)[-1]
    if "<think" in text or not (found := [*_VALUE.finditer(text)]):
        return None
    line = text.rfind("\n", 0, found[-1].start())
    named = [_NAMED.fullmatch(own[1].strip(_MARKS)) for own in found if own.start() > line]
    letters = {match and match[1].upper() for match in named}
    return "A" if letters == {"A"} else "B" if letters == {"B"} else None

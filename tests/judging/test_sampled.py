"""Judges that write their answers: read where they name a response, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.judging.protocol import Question, Verdict
from alignxplore_trl.judging.sampled import SampledJudge, read_selection

READABLE = [
    '{"selection": "Response A"}',
    '```json\n{"selection": "Response A"}\n```',
    "{'selection': 'Response A'}",
    '{"selection": "Response A", "confidence": 0.9, "why": None}',
    '{"reasoning": "calls B "too long", and A right", "selection": "Response A"}',
    '{"Selection": "RESPONSE A."}',
    '{"selection": "(A)"}',
    "{selection: A}",
    '{"**selection**": "**Response A**"}',
    'At first {"selection": "Response B"} looked right.\nBut no: {"selection": "Response A"}',
    '<think>Maybe {"selection": "Response B"}?</think>{"selection": "Response A"}',
    '{"selection": "Response A',
]
UNREADABLE = [
    "",
    "Response A",
    '{"selection": "both"}',
    '{"selection": "Response A or B"}',
    '{"selection": "Response A is not good"}',
    '{"choice": "Response A"}',
    '{"previous selection": "Response A"}',
    '{"reasoning": "my selection: Response A"}',
    '{"selection": "Response A"} or {"selection": "Response B"}.',
    'First {"selection": "Response A"}, in the end {"selection": "neither"}',
    'First {"selection": "Response A"}, then {"selection": "Response B"}.',
    '<think>{"selection": "Response A"}',
]


@pytest.mark.parametrize("answer", READABLE)
def test_the_letter_is_read(answer: str) -> None:
    assert read_selection(answer) == "A"
    assert read_selection(answer.translate(str.maketrans("AB", "BA"))) == "B"


@pytest.mark.parametrize("answer", UNREADABLE)
def test_what_names_no_response_is_not_read(answer: str) -> None:
    assert read_selection(answer) is None


PIECES = ["{", "}", ":", ",", '"', "'", "\n", " ", "or", "selection", '"selection"', "Response A",
          "Response B", "A", "<think>", "</think>", '{"selection": "Response A"}', "é"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
def test_nothing_is_read_without_a_selection(answer: str) -> None:
    assert read_selection(answer) in ("A", "B", None)
    assert read_selection(answer.replace("selection", "choice")) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("filler", [*PIECES, '{"selection":', "selection: A ", "{", "_", "\\"])
def test_any_filler_is_read_in_linear_time(filler: str) -> None:
    read_selection(filler * (200_000 // len(filler)))


@dataclass(frozen=True)
class Text:
    text: str


@dataclass
class Scripted:
    """A writer whose answers stand in a list for each prompt, in the order of asking."""

    answers: list[list[str | None]]
    chat: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    prompts: list[str] = field(default_factory=list)

    def write(self, prompts: Sequence[str], samples: int) -> list[list[Text | None]]:
        self.prompts += prompts
        self.counts["timeout"] += sum(own is None for each in self.answers for own in each)
        return [[None if own is None else Text(own) for own in each] for each in self.answers]


QUESTIONS = [Question(f"fixing bikes {n}", "prefers brief", "tldr", "moreover") for n in range(4)]


def test_a_verdict_is_the_share_of_the_readable_answers_that_name_a() -> None:
    a, b = '{"selection": "Response A"}', '{"selection": "Response B"}'
    writer = Scripted([[a, a, b, "?"], [a, "?", "?", "?"], [None] * 4, [b, None, b, b]])
    judge = SampledJudge(writer, "compact", samples=4)
    verdicts = judge.judge([*QUESTIONS, QUESTIONS[0]])
    assert verdicts == [Verdict(2 / 3, 0.75), None, None, Verdict(0.0, 0.75), Verdict(2 / 3, 0.75)]
    assert judge.counts == {"timeout": 5, "unreadable": 1}
    assert len(writer.prompts) == 4


def test_a_base_models_json_is_begun_for_it() -> None:
    writer = Scripted([[' A"} and so on'], [" B B <post> B"], [' C"}'], ["<reply> A"]], chat=False)
    verdicts = SampledJudge(writer, "compact").judge(QUESTIONS)
    assert verdicts == [Verdict(1.0, 1.0), Verdict(0.0, 1.0), None, None]
    assert all(own.endswith('{"selection": "Response') for own in writer.prompts)

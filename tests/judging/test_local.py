"""The judge and the generator in this process, with the small models that ship."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignxplore_trl.judging.local import LocalGenerator, LocalJudge
from alignxplore_trl.judging.protocol import Question
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.prompts import Prompts

MODEL = "assets/judge"
QUESTION = Question("selling pianos alone", "prefers detailed", "elaborating", "nutshell")


@pytest.fixture(scope="module")
def judge() -> LocalJudge:
    return LocalJudge(MODEL, "compact", "float32", chat=False)


def plain(model: str, text: str, continuations: list[str]) -> list[float]:
    """log p of single tokens behind a text, from one pass: a few lines of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = [tokenizer(text + own)["input_ids"] for own in continuations]
    with torch.no_grad():
        logits = weights(torch.tensor([ids[0][:-1]])).logits[0, -1]
    return [logits.log_softmax(-1)[own[-1]].item() for own in ids]


def test_a_verdict_is_the_probability_of_the_letter_behind_the_answers_start(
    judge: LocalJudge,
) -> None:
    prompt = Prompts("compact").render(
        "judgement",
        post=QUESTION.post,
        description=QUESTION.description,
        response_a=QUESTION.response_a,
        response_b=QUESTION.response_b,
    )
    start = prompt + '{"selection": "Response'
    a, b = map(math.exp, plain(MODEL, start, [" A", " B"]))
    [verdict] = judge.judge([QUESTION])
    assert verdict is not None
    assert verdict.probability_a == pytest.approx(a / (a + b), abs=1e-6)
    assert verdict.label_mass == pytest.approx(a + b, abs=1e-6)
    assert verdict.probability_a > 0.9


def test_a_verdict_does_not_depend_on_what_else_is_asked(judge: LocalJudge) -> None:
    others = [
        Question(f"fixing {n * 'bikes '}", description, "haha", "gravely")
        for n in range(9)
        for description in ("prefers playful", None)
    ]
    [alone] = judge.judge([QUESTION])
    first, *_, last = judge.judge([QUESTION, *others, QUESTION])
    assert first == last
    assert alone is not None
    assert first is not None
    assert first.probability_a == pytest.approx(alone.probability_a, abs=1e-6)


def test_what_is_not_answered_is_none_and_counted_by_reason() -> None:
    long = Question("fixing bikes " * 3000, None, "haha", "gravely")
    judge = LocalJudge(MODEL, "compact", "float32", chat=False)
    assert judge.judge([long, QUESTION, long])[::2] == [None, None]
    assert judge.counts == {"too_long": 2}
    teacher = LocalJudge("assets/teacher", "compact", "float32", chat=False)
    assert teacher.judge([QUESTION]) == [None]
    assert teacher.counts == {"label_mass": 1}
    assert judge.judge([]) == []


def test_the_description_may_stand_last() -> None:
    last = LocalJudge(MODEL, "compact", "float32", chat=False, layout="description_last")
    [verdict] = last.judge([QUESTION])
    assert verdict is not None


def test_a_generator_sums_over_the_replys_own_tokens() -> None:
    generator = LocalGenerator(MODEL, "float32", chat=False)
    prompt = Prompts("compact").render("reply", post="selling pianos", description=None)
    expected = sum(
        plain(MODEL, prompt + start, [own])[0]
        for start, own in (("", " elaborating"), (" elaborating", ","), (" elaborating,", " now"))
    )
    found = generator.log_probabilities([prompt] * 3, ["elaborating, now", "", "elaborating, now"])
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert found[1] is not None, "a blank is a token of this reply"
    assert found[2] == found[0]


def test_one_copy_of_the_weights_serves_a_judge_and_a_generator(judge: LocalJudge) -> None:
    judge.load()
    generator = LocalGenerator(MODEL, "float32", chat=False)
    generator.load()
    assert generator.model.reader.model is judge.model.reader.model  # type: ignore[attr-defined]


def test_a_model_that_is_not_there_is_said_at_load(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        LocalJudge(str(tmp_path), "compact", "float32", chat=False).load()

"""The judge and the generator in this process, with the small models that ship."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignxplore_trl.judging.local import LocalGenerator, LocalJudge
from alignxplore_trl.judging.protocol import Question, judgement
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.prompts import Prompts

MODEL = "assets/judge"
QUESTION = Question("selling pianos alone", "prefers detailed", "elaborating", "nutshell")


def local(model: str = MODEL, **settings: Any) -> LocalJudge:
    return LocalJudge(model=model, prompts="compact", dtype="float32", chat=False, **settings)


@pytest.fixture(scope="module")
def judge() -> LocalJudge:
    return local()


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
    prompt = judgement(Prompts("compact"), QUESTION, "description_first")
    start = prompt + '{"selection": "Response'
    a, b = map(math.exp, plain(MODEL, start, [" A", " B"]))
    [verdict] = judge.judge([QUESTION])
    assert verdict is not None
    assert verdict.probability_a == pytest.approx(a / (a + b), abs=1e-6)
    assert verdict.label_mass == pytest.approx(a + b, abs=1e-6)
    assert verdict.probability_a > 0.9


def test_what_is_not_answered_is_none_and_counted_by_reason() -> None:
    long = Question("fixing bikes " * 3000, None, "haha", "gravely")
    judge = local()
    assert judge.judge([long, QUESTION, long])[::2] == [None, None]
    assert judge.counts == {"too_long": 2}
    teacher = local("assets/teacher")
    assert teacher.judge([QUESTION]) == [None]
    assert teacher.counts == {"label_mass": 1}
    assert judge.judge([]) == []


def test_a_generator_sums_over_the_replys_own_tokens() -> None:
    generator = LocalGenerator(model=MODEL, dtype="float32", chat=False)
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
    generator = LocalGenerator(model=MODEL, dtype="float32", chat=False)
    generator.load()
    assert generator.reader.model is judge.reader.model


def test_a_model_that_is_not_there_is_said_at_load(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        local(str(tmp_path)).load()

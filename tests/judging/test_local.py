"""The local judge against one plain forward pass per question."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import SHIPPED_PROMPTS, Layout, PromptSet, Question

SHIPPED_JUDGE = Path(__file__).parents[2] / "assets" / "judge"
QUESTIONS = [
    Question("fixing bikes", "prefers brief", "tldr, haha", "furthermore, study"),
    Question("a much longer post about " + "many boats " * 20, None, "haha", "soberly " * 9),
    Question("naming hats", "prefers formal, warm, quick", "hereby", "dude, now"),
]


def judge_with(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    **options: object,
) -> LocalJudge:
    settings = {"max_batch_tokens": 4096, "minimum_label_mass": 0.0} | options
    return LocalJudge(model, tokenizer, prompts, **settings)  # type: ignore[arg-type]


def plain_probabilities(model: LlamaForCausalLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)


@pytest.mark.parametrize("max_batch_tokens", [1, 150, 4096])
def test_probabilities_are_those_of_a_plain_forward(
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    max_batch_tokens: int,
) -> None:
    judge = judge_with(random_model, tokenizer, prompts, max_batch_tokens=max_batch_tokens)
    for question, verdict in zip(QUESTIONS, judge.judge(QUESTIONS), strict=True):
        text = prompts.judgement(question) + '{"selection": "Response'
        letter_a, letter_b = (tokenizer.encode(letter)[-1] for letter in (" A", " B"))
        expected = plain_probabilities(random_model, tokenizer(text)["input_ids"])
        a, b = expected[letter_a].item(), expected[letter_b].item()
        assert verdict is not None
        assert verdict.label_mass == pytest.approx(a + b, abs=1e-5)
        assert verdict.probability_a == pytest.approx(a / (a + b), abs=1e-4)


def test_letters_are_found_where_the_tokenizer_puts_them(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    judge = judge_with(random_model, tokenizer, prompts)
    [reading] = judge._read([QUESTIONS[0]])
    [letters] = reading.targets
    texts = [tokenizer.decode([*reading.ids, letter]) for letter in letters]
    assert [text[-10:] for text in texts] == ["Response A", "Response B"]


def test_a_verdict_needs_mass_on_the_letters(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    judge = judge_with(random_model, tokenizer, prompts, minimum_label_mass=0.5)
    assert judge.judge(QUESTIONS) == [None, None, None]
    assert judge.take_measurements().unanswered == {"label_mass": 3}


def test_a_question_beyond_the_context_is_not_answered_and_the_others_are(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    endless = Question("why " * 3000, "prefers brief", "yes", "no")
    judge = judge_with(random_model, tokenizer, prompts)
    verdicts = judge.judge([endless, *QUESTIONS])
    assert verdicts[0] is None
    assert None not in verdicts[1:]
    assert judge.take_measurements().unanswered == {"too_long": 1}


def test_equal_questions_are_asked_once(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    judge = judge_with(random_model, tokenizer, prompts)
    once = judge.judge(QUESTIONS)
    tokens = judge.take_measurements().tokens
    verdicts = judge.judge([QUESTIONS[0]] * 5 + QUESTIONS)
    assert verdicts == [once[0]] * 5 + once
    measured = judge.take_measurements()
    assert measured.tokens == tokens == sum(len(own.ids) for own in judge._read(QUESTIONS))
    assert (measured.questions, measured.lookups, measured.hits) == (8, 8, 5)
    assert measured.probabilities_a == [own.probability_a for own in verdicts if own]
    assert measured.label_masses == [own.label_mass for own in verdicts if own]
    assert measured.requests == len(measured.latencies) > 0
    assert measured.seconds >= sum(measured.latencies) > 0


words = st.lists(
    st.sampled_from(["bikes", "haha", "now", "é", "\n", "</post>", "*A:*", "mending " * 30]),
    max_size=6,
).map(" ".join)
# Few values per slot, so that questions of a batch have much in common.
questions = st.lists(st.tuples(words, words, words, words), min_size=1, max_size=3).flatmap(
    lambda pool: st.lists(
        st.builds(
            Question,
            st.sampled_from([own[0] for own in pool]),
            st.sampled_from([None, *(own[1] for own in pool)]),
            st.sampled_from([own[2] for own in pool]),
            st.sampled_from([own[3] for own in pool]),
        ),
        max_size=10,
    )
)


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForCausalLM.from_pretrained(SHIPPED_JUDGE).eval()


@pytest.mark.parametrize("folder", ["compact", "default"])
@pytest.mark.parametrize("layout", get_args(Layout))
@settings(max_examples=15, deadline=None)
@given(batch=questions, budget=st.sampled_from([1, 3000, 100_000]))
def test_the_shipped_judge_answers_any_batch_as_one_plain_pass_per_question(
    shipped, folder, layout, batch, budget
) -> None:
    prompts = PromptSet(folder)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_JUDGE)
    judge = judge_with(shipped, tokenizer, prompts, max_batch_tokens=budget, layout=layout)
    for _ in range(2):
        for question, verdict in zip(batch, judge.judge(batch), strict=True):
            text = prompts.judgement(question, layout) + '{"selection": "Response'
            letters = [tokenizer.encode(letter)[-1] for letter in (" A", " B")]
            expected = plain_probabilities(shipped, tokenizer(text)["input_ids"])[letters]
            assert verdict is not None
            assert verdict.label_mass == pytest.approx(expected.sum().item(), abs=1e-4)
            # Where letters have next to no mass, their ratio is noise: compare what is weighed.
            probability = verdict.probability_a * verdict.label_mass
            assert probability == pytest.approx(expected[0].item(), abs=1e-4)


def test_instructions_are_computed_once_for_all_calls(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    judge = judge_with(random_model, tokenizer, PromptSet("default"))
    described, alone = Question("p", "d", "a", "b"), Question("p", None, "a", "b")
    first, again, others, back = (
        (judge.judge([own]), judge.take_measurements().tokens)[1]
        for own in (described, described, alone, Question("q", "e", "c", "f"))
    )
    instructions = [len(own) for own in judge._instructions]
    assert min(instructions) >= 32
    assert first - again == instructions[0]
    assert others == len(judge._read([alone])[0].ids)
    assert back < instructions[0]


def test_rollouts_share_post_and_replies_when_the_description_comes_last(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    post, reply = "mending many boats " * 10, "haha, dear " * 10
    rollouts = [Question(post, f"prefers {own}", reply, "nope") for own in ("warm", "brief")]
    tokens = []
    for layout in get_args(Layout):
        judge = judge_with(random_model, tokenizer, prompts, layout=layout)
        judge.judge(rollouts)
        tokens.append(judge.take_measurements().tokens)
    assert tokens[1] < 0.6 * tokens[0]


def test_a_layout_that_the_prompts_do_not_have_is_named(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for name in ("inference", "teacher", "judgement", "reply"):
        shutil.copy(SHIPPED_PROMPTS / "compact" / f"{name}.jinja", tmp_path)
    shutil.copy(SHIPPED_PROMPTS / "compact" / "signals.jinja", tmp_path)
    prompts = PromptSet(tmp_path)
    assert judge_with(random_model, tokenizer, prompts).judge(QUESTIONS)
    with pytest.raises(UserError, match=r"has no judgement_description_last\.jinja"):
        judge_with(random_model, tokenizer, prompts, layout="description_last")


def test_no_questions_no_verdicts(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    assert judge_with(random_model, tokenizer, prompts).judge([]) == []

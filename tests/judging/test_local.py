"""The local judge against one plain forward pass per question."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.text.rendering import PromptSet, Question

QUESTIONS = [
    Question("fixing bikes", "prefers brief", "tldr, haha", "furthermore, study"),
    Question("a much longer post about " + "many boats " * 20, None, "haha", "soberly " * 9),
    Question("naming hats", "prefers formal, warm, quick", "hereby", "dude, now"),
]


def judge_with(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    **options: float,
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
    [(forced, letter_a, letter_b)] = judge._encode([prompts.judgement(QUESTIONS[0])])
    texts = [tokenizer.decode([*forced, letter]) for letter in (letter_a, letter_b)]
    assert [text[-10:] for text in texts] == ["Response A", "Response B"]


def test_a_verdict_needs_mass_on_the_letters(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    judge = judge_with(random_model, tokenizer, prompts, minimum_label_mass=0.5)
    assert judge.judge(QUESTIONS) == [None, None, None]


def test_a_question_beyond_the_context_is_not_answered_and_the_others_are(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    endless = Question("why " * 3000, "prefers brief", "yes", "no")
    verdicts = judge_with(random_model, tokenizer, prompts).judge([endless, *QUESTIONS])
    assert verdicts[0] is None
    assert None not in verdicts[1:]


def test_equal_questions_are_asked_once(
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = judge_with(random_model, tokenizer, prompts)
    rows: list[int] = []
    forward = judge._next_token_probabilities
    monkeypatch.setattr(
        judge, "_next_token_probabilities", lambda batch: rows.append(len(batch)) or forward(batch)
    )
    verdicts = judge.judge([QUESTIONS[0]] * 5 + QUESTIONS)
    assert sum(rows) == len(QUESTIONS)
    assert len({id(verdict) for verdict in verdicts[:6]}) == 1


def test_no_questions_no_verdicts(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    assert judge_with(random_model, tokenizer, prompts).judge([]) == []

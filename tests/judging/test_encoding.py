"""Token ids of questions and replies, against their text."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.judging.encoding import encode_questions, encode_replies
from alignxplore_trl.text.rendering import PromptSet, Question

QUESTIONS = [
    Question("fixing bikes", "prefers brief", "tldr, haha", "furthermore, study"),
    Question("naming hats", None, "hereby", "dude, now"),
]
CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant] "


@pytest.mark.parametrize("chat", [False, True])
def test_a_question_ends_where_the_letter_follows(
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    chat: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    for question, encoded in zip(
        QUESTIONS, encode_questions(tokenizer, prompts, QUESTIONS, chat=chat), strict=True
    ):
        prompt = prompts.judgement(question)
        text = f"[user] {prompt}[assistant] " if chat else prompt
        for letter, token in (("A", encoded.letter_a), ("B", encoded.letter_b)):
            whole = tokenizer(f'{text}{{"selection": "Response {letter}"}}')["input_ids"]
            assert whole[: len(encoded.token_ids) + 1] == [*encoded.token_ids, token]
            assert tokenizer.decode([token]).strip() == letter


def test_a_reply_has_the_same_tokens_behind_any_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    (head, tail), (other_head, other_tail) = encode_replies(
        tokenizer, ["one prompt", "another <reply>"], ["tldr, haha"] * 2
    )
    assert tail == other_tail == tokenizer(" tldr, haha")["input_ids"]
    assert head != other_head


def test_nothing_asked_nothing_encoded(
    tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    assert encode_questions(tokenizer, prompts, [], chat=False) == []
    assert encode_replies(tokenizer, [], []) == []

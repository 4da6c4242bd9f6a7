"""Questions and replies as token ids: the same for a model in this process and one on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from alignxplore_trl.text.rendering import Layout, PromptSet, Question

_SELECTION = '{{"selection": "Response {letter}"}}'


@dataclass(frozen=True)
class EncodedQuestion:
    """A question up to the letter of its answer, and the two tokens that may come next.

    Attributes:
        token_ids: the prompt and the answer's JSON, up to where the two answers part.
        letter_a: the token with which the answer `Response A` goes on.
        letter_b: the token with which the answer `Response B` goes on.
    """

    token_ids: list[int]
    letter_a: int
    letter_b: int


def as_message(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt as a user's message in the model's chat template, up to where the answer starts.

    The template writes the special tokens itself: none are to be added when this is tokenized.
    """
    message = [{"role": "user", "content": prompt}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str)
    return rendered


def encode_questions(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    questions: Sequence[Question],
    *,
    chat: bool,
    layout: Layout = "description_first",
) -> list[EncodedQuestion]:
    """Token ids of each question, teacher-forced up to where the two answers part.

    The answer is `{"selection": "Response A"}` or B. Both are tokenized behind the prompt, so that
    the letters' tokens are those that this tokenizer makes of them there.

    Args:
        tokenizer: the judge's own.
        prompts: the templates; the judgement template of the layout is used.
        questions: what the judge is asked.
        chat: send the prompt as a user's message through the tokenizer's chat template.
        layout: where the description stands.
    """
    answered = encode_answers(tokenizer, prompts, questions, chat=chat, layout=layout)
    return [_up_to_the_letter(with_a, with_b) for with_a, with_b in answered]


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    questions: Sequence[Question],
    *,
    chat: bool,
    layout: Layout = "description_first",
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each question with the whole answer `Response A`, and with `Response B`.

    The arguments are those of `encode_questions`.
    """
    if not questions:
        return []
    texts = [prompts.judgement(question, layout) for question in questions]
    if chat:
        texts = [as_message(tokenizer, text) for text in texts]
    with_a, with_b = (
        tokenizer(
            [text + _SELECTION.format(letter=letter) for text in texts],
            add_special_tokens=not chat,
        )["input_ids"]
        for letter in "AB"
    )
    return list(zip(with_a, with_b, strict=True))


def encode_replies(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of the response behind it.

    They are tokenized apart, so that a response has the same tokens whatever stands before it.
    """
    if not prompts:
        return []
    heads = tokenizer(list(prompts))["input_ids"]
    tails = tokenizer([f" {each}" for each in responses], add_special_tokens=False)["input_ids"]
    return list(zip(heads, tails, strict=True))


def _up_to_the_letter(with_a: list[int], with_b: list[int]) -> EncodedQuestion:
    part = next(i for i, (a, b) in enumerate(zip(with_a, with_b, strict=False)) if a != b)
    return EncodedQuestion(with_a[:part], with_a[part], with_b[part])

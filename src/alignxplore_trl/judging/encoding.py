"""Questions and replies as token ids: the same for a model in this process and one on a server."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from alignxplore_trl.run.errors import UserError

ANSWER = '{{"selection": "Response {letter}"}}'
_REASONING = "<think>\n\n</think>\n\n"


def before_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> str:
    """The prompt up to where the answer starts; with `chat` as a user's message.

    Hybrid models are asked not to think. Where the template opens a reasoning block all the same,
    or knows one and leaves it to the model, it is closed at once: the answer is read behind it.

    Raises:
        UserError: the tokenizer has no chat template, or one whose answers stand in channels.
    """
    if not chat:
        return prompt
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            f"{tokenizer.name_or_path}: it has no chat template; choose chat: false"
        ) from error
    if "<|channel|>" in template or "to=self" in template:
        raise UserError(
            f"{tokenizer.name_or_path}: it answers in channels, reasoning first, so that no answer "
            "can be read at its first token; choose another model, or judge=sampled"
        )
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            thinking=False,
        )
    )
    start = text.rstrip()
    if start.endswith("<think>"):
        return start.removesuffix("<think>") + _REASONING
    if "</think>" in template and not start.endswith("</think>"):
        return text + _REASONING
    return text


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], chat: bool
) -> list[tuple[list[int], tuple[int, int]]]:
    """Of each prompt the token ids up to where the answers A and B part, and the two tokens there.

    Both answers are tokenized behind the prompt, so that the letters' tokens are those that this
    tokenizer makes of them there.

    Raises:
        UserError: A and B aren't one token each, or are unknown to the tokenizer; the chat template
            doesn't allow it.
    """
    texts = [before_answer(tokenizer, prompt, chat) for prompt in prompts]
    if not texts:
        return []
    with_a, with_b = (
        tokenizer(
            [text + ANSWER.format(letter=letter) for text in texts], add_special_tokens=not chat
        )["input_ids"]
        for letter in "AB"
    )
    return [_part(tokenizer, a, b) for a, b in zip(with_a, with_b, strict=True)]


def encode_replies(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], replies: Sequence[str], chat: bool
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of the reply behind it.

    They are tokenized apart, so that a reply has the same tokens whatever stands before it.
    """
    if not prompts:
        return []
    texts = [before_answer(tokenizer, prompt, chat) for prompt in prompts]
    heads = tokenizer(texts, add_special_tokens=not chat)["input_ids"]
    blank = "" if chat else " "
    tails = tokenizer([blank + reply for reply in replies], add_special_tokens=False)["input_ids"]
    return list(zip(heads, tails, strict=True))


def _part(
    tokenizer: PreTrainedTokenizerBase, a: list[int], b: list[int]
) -> tuple[list[int], tuple[int, int]]:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    # Of a token that only begins a letter, the probability would be that of other words, too.
    if len(a) != len(b) or at == len(a) or a[at + 1 :] != b[at + 1 :]:
        raise UserError(
            f"{tokenizer.name_or_path}: the answers A and B aren't told apart by one token each: "
            f"{tokenizer.convert_ids_to_tokens(a[at:])}, {tokenizer.convert_ids_to_tokens(b[at:])}"
        )
    if tokenizer.unk_token_id in (a[at], b[at]):
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer doesn't know the letters A and B")
    return a[:at], (a[at], b[at])

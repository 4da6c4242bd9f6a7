"""Questions and replies as token ids: the same for a model in this process and one on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from alignxplore_trl.run.errors import UserError

# Hybrid models are asked not to think: templates know one name or the other.
_ASKED: Any = {
    "tokenize": False, "add_generation_prompt": True, "enable_thinking": False, "thinking": False,
}  # fmt: skip
_CLOSED = "<think>\n\n</think>\n\n"


def before_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> str:
    """The prompt up to where the answer starts; with `chat` as a user's message.

    Where the template opens a reasoning block all the same, or knows one and leaves it to the
    model, it is closed at once: the answer is read behind it. A UserError names a tokenizer that
    has no chat template, or one whose answers stand in channels.
    """
    if not chat:
        return prompt
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: it has no chat template; choose chat: false")
    template = tokenizer.get_chat_template()
    if "<|channel|>" in template or "to=self" in template:
        raise UserError(
            f"{tokenizer.name_or_path}: it answers in channels, reasoning first, so that no answer "
            "can be read at its first token; choose another model, or judge=sampled"
        )
    text = str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **_ASKED))
    start = text.rstrip()
    if start.endswith("<think>"):
        return start.removesuffix("<think>") + _CLOSED
    return text if "</think>" not in template or start.endswith("</think>") else text + _CLOSED


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], chat: bool
) -> list[tuple[list[int], tuple[int, int]]]:
    """Of each prompt the token ids up to where the answers A and B part, and the two tokens there.

    Both answers are tokenized behind the prompt: the letters' tokens are those they are there. A
    UserError says where they aren't told apart by one token each, or `before_answer` refuses.
    """
    texts = [before_answer(tokenizer, prompt, chat) for prompt in prompts]
    with_a, with_b = (
        _ids(tokenizer, [f'{text}{{"selection": "Response {letter}"}}' for text in texts], not chat)
        for letter in "AB"
    )
    found = []
    for a, b in zip(with_a, with_b, strict=True):
        differing = [at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        at = differing[0] if differing else 0
        # Of a token that only begins a letter, the probability would be that of other words, too.
        if len(differing) != 1 or len(a) != len(b) or tokenizer.unk_token_id in (a[at], b[at]):
            ends = [tokenizer.convert_ids_to_tokens(ids[-8:]) for ids in (a, b)]
            raise UserError(
                f"{tokenizer.name_or_path}: the answers A and B aren't told apart by one token "
                f"each: {ends[0]}, {ends[1]}; choose another model, or judge=sampled"
            )
        found.append((a[:at], (a[at], b[at])))
    return found


def encode_replies(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], replies: Sequence[str], chat: bool
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of the reply behind it.

    They are tokenized apart, so that a reply has the same tokens whatever stands before it.
    """
    heads = _ids(tokenizer, [before_answer(tokenizer, own, chat) for own in prompts], not chat)
    tails = _ids(tokenizer, [reply if chat else f" {reply}" for reply in replies], False)
    return list(zip(heads, tails, strict=True))


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    """Token ids; a chat template has written the special tokens itself."""
    found = tokenizer(texts, add_special_tokens=special)["input_ids"] if texts else []
    return [*found]

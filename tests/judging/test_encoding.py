"""Letters found in place, and chat templates with their reasoning closed, in real vocabularies."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alignxplore_trl.judging.encoding import before_answer, encode_questions, encode_replies
from alignxplore_trl.run.errors import UserError
from tests.judging.vocabularies import MAKERS, TEMPLATES, tokenizer_of

CLOSED = "<think>\n\n</think>\n\n"
# What stands between a user's message and the judge's answer.
STARTS = {
    "Qwen2.5": "<|im_end|>\n<|im_start|>assistant\n",
    "Qwen3": f"<|im_end|>\n<|im_start|>assistant\n{CLOSED}",
    "QwQ": f"<|im_end|>\n<|im_start|>assistant\n{CLOSED}",
    "DeepSeek-R1-Distill-Qwen": f"<｜Assistant｜>{CLOSED}",
    "DeepSeek": f"<｜Assistant｜>{CLOSED}",
    "Llama-3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "Mistral": "[/INST]",
    "Gemma-3": "<end_of_turn>\n<start_of_turn>model\n",
}


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("family", MAKERS)
def test_letters_are_found_where_the_answers_part(family: str, chat: bool) -> None:
    tokenizer = tokenizer_of(family)
    [(ids, letters)] = encode_questions(tokenizer, ["Which one? Answer:\n"], chat)
    text = tokenizer.decode(ids)
    assert [tokenizer.decode([*ids, own]) for own in letters] in (
        [f"{text} A", f"{text} B"],
        [f"{text}A", f"{text}B"],
    )
    whole = tokenizer.decode([*ids, letters[0]])
    assert whole.endswith('{"selection": "Response A')
    starts = ids.count(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else 0
    assert starts <= 1, "the template's own start of text isn't doubled"


@pytest.mark.parametrize("family", MAKERS)
def test_an_answer_starts_behind_the_reasoning(family: str) -> None:
    text = before_answer(tokenizer_of(family), "Which one?", chat=True)
    assert text.partition("Which one?")[2] == STARTS[family]


def test_a_hybrid_model_that_thinks_by_default_is_asked_not_to() -> None:
    tokenizer = tokenizer_of("Qwen3")
    message = [{"role": "user", "content": "?"}]
    thinking = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert "</think>" not in thinking
    assert before_answer(tokenizer, "?", chat=True) == thinking + CLOSED


NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if "_training" not in path.stem)
CHANNELS = {"gptoss", "muse_glimmer"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHANNELS])
def test_no_template_of_trl_leaves_a_reasoning_open(name: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, "?")), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    text = before_answer(tokenizer, "Which one?", chat=True)
    assert text.count("<think>") == text.count("</think>") <= 1
    assert ("</think>" in tokenizer.chat_template) == text.rstrip().endswith("</think>")


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_models_that_answer_in_channels_are_refused(name: str) -> None:
    tokenizer = tokenizer_of("Llama-3")
    before, tokenizer.chat_template = (
        tokenizer.chat_template,
        (TEMPLATES / f"{name}.jinja").read_text(),
    )
    try:
        with pytest.raises(UserError, match=r"channels.*judge=sampled"):
            encode_questions(tokenizer, ["?"], chat=True)
    finally:
        tokenizer.chat_template = before


def test_a_model_without_chat_template_is_refused() -> None:
    with pytest.raises(UserError, match="no chat template; choose chat: false"):
        before_answer(AutoTokenizer.from_pretrained("assets/judge"), "?", chat=True)


def test_letters_that_are_not_one_token_each_are_refused() -> None:
    words = {word: n for n, word in enumerate(["?", "<unk>", '{"selection":', '"Response'])}
    made = Tokenizer(WordLevel(words, "<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    with pytest.raises(UserError, match="aren't told apart by one token"):
        encode_questions(tokenizer, ["?"], chat=False)


@pytest.mark.parametrize("family", MAKERS)
def test_a_reply_has_the_same_tokens_whatever_stands_before_it(family: str) -> None:
    prompts = ["A post. Response:\n", "A description, and a post. Response:\n"]
    for chat in (True, False):
        first, second = encode_replies(
            tokenizer_of(family), prompts, ["Short and clear."] * 2, chat
        )
        assert first[1] == second[1]
        assert tokenizer_of(family).decode(first[1]).strip() == "Short and clear."
        ids = first[0] + first[1]
        text = tokenizer_of(family).decode(ids)
        assert text.count("Short and clear.") == 1

"""Letters found in place, and chat templates with their reasoning closed, in real vocabularies."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.judging.encoding import before_answer, encode_questions, encode_replies
from alignxplore_trl.run.errors import UserError
from rehearsal.stand_ins import stand_in_tokenizer

TEMPLATES = {path.stem: path for path in Path(str(files("trl"))).glob("chat_templates/*.jinja")}
CHANNELS = ["gptoss", "muse_glimmer"]
PLAIN = {name for name in TEMPLATES if "_training" not in name} - {*CHANNELS}
CLOSED = "<think>\n\n</think>\n\n"
# What stands between a user's message and the judge's answer.
STARTS = {
    "qwen2.5-7b-instruct": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3-8b": f"<|im_end|>\n<|im_start|>assistant\n{CLOSED}",
    "qwq-32b": f"<|im_end|>\n<|im_start|>assistant\n{CLOSED}",
    "deepseek-r1-distill-qwen-7b": f"<｜Assistant｜>{CLOSED}",
    "deepseek-r1": f"<｜Assistant｜>{CLOSED}",
    "llama-3.2-3b-instruct": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral-7b-instruct-v0.3": "[/INST]",
    "mistral-small-24b-instruct": "[/INST]",
    "gemma-3-4b-it": "<end_of_turn>\n<start_of_turn>model\n",
}
tokenizer_of = cache(stand_in_tokenizer)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("family", STARTS)
def test_letters_are_found_where_the_answers_part(family: str, chat: bool) -> None:
    tokenizer = tokenizer_of(family)
    [(ids, letters)] = encode_questions(tokenizer, ["Which one? Answer:\n"], chat)
    text = tokenizer.decode(ids)
    ends = [tokenizer.decode([*ids, own]).removeprefix(text).strip() for own in letters]
    assert ends == ["A", "B"]
    assert tokenizer.decode([*ids, letters[0]]).endswith('{"selection": "Response A')
    begins = tokenizer.bos_token_id
    assert begins is None or ids.count(begins) <= 1, "the template's own isn't doubled"


@pytest.mark.parametrize("family", STARTS)
def test_an_answer_starts_behind_the_reasoning(family: str) -> None:
    text = before_answer(tokenizer_of(family), "Which one?", chat=True)
    assert text.partition("Which one?")[2] == STARTS[family]


def with_template(template: str | None, *words: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(WordLevel({word: n for n, word in enumerate(("<unk>", *words))}, "<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **tokens)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_no_template_of_trl_leaves_a_reasoning_open(name: str) -> None:
    template = TEMPLATES[name].read_text("utf-8")
    text = before_answer(with_template(template), "Which one?", chat=True)
    assert text.count("<think>") == text.count("</think>") <= 1
    assert ("</think>" in template) == text.rstrip().endswith("</think>")


@pytest.mark.parametrize("name", CHANNELS)
def test_models_that_answer_in_channels_are_refused(name: str) -> None:
    tokenizer = with_template(TEMPLATES[name].read_text("utf-8"))
    with pytest.raises(UserError, match=r"channels.*judge=sampled"):
        encode_questions(tokenizer, ["?"], chat=True)


def test_tokenizers_that_cannot_be_asked_are_refused() -> None:
    with pytest.raises(UserError, match="no chat template; choose chat: false"):
        before_answer(with_template(None), "?", chat=True)
    with pytest.raises(UserError, match="aren't told apart by one token"):
        encode_questions(with_template(None, "?", '{"selection":', '"Response'), ["?"], chat=False)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("family", STARTS)
def test_a_reply_has_the_same_tokens_whatever_stands_before_it(family: str, chat: bool) -> None:
    tokenizer = tokenizer_of(family)
    prompts = ["A post. Response:\n", "A description, and a post. Response:\n"]
    first, second = encode_replies(tokenizer, prompts, ["Short and clear."] * 2, chat)
    assert first[1] == second[1]
    assert tokenizer.decode(first[1]).strip() == "Short and clear."
    assert tokenizer.decode(first[0] + first[1]).count("Short and clear.") == 1

"""Language models that are talked to: what they are sent, and what comes of every answer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.baselines.language_model import Conversation, Message, question
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import (
    GIVE_UP_AFTER,
    PROMPTING,
    LocalLanguageModel,
    ServerLanguageModel,
    chat_messages,
    plain_text,
)
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import PromptSet
from tests.judging.fault_server import FAULTS, Body, FaultServer, Reply, quick, refusal

TALK: Conversation = (
    Message("user", "Who?\n<think>"),
    Message("assistant", "me <think>"),
    Message("user", "Why?"),
)
CHAT_TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|model|>"


def test_a_conversation_as_text_and_as_messages() -> None:
    assert plain_text(TALK) == "Who?\n<think>\n\nme <think>\n\nWhy?"
    # What a prompt opens for the model to go on is the model's own in a chat.
    assert chat_messages(TALK) == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "me <think>"},
        {"role": "user", "content": "Why?"},
    ]


# --- a model in this process ---------------------------------------------------------------------


@pytest.fixture
def describer(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> Describer:
    return Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=6),
        max_prompt_tokens=100,
        batch_size=4,
    )


TALKS = [question(text) for text in ("<post> a", "<post> a b c", "x", "x", "<reply> c", "c b")]


def test_answers_are_a_function_of_seed_and_conversations_in_any_order(
    describer: Describer,
) -> None:
    model = LocalLanguageModel(describer, chat=False)
    before = torch.get_rng_state()
    answers = model.answer(TALKS, temperature=0.9, seed=3)
    order = [4, 0, 5, 2, 1, 3]
    again = model.answer([TALKS[place] for place in order], temperature=0.9, seed=3)
    assert again == [answers[place] for place in order]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.answer(TALKS, temperature=0.9, seed=4) != answers
    assert answers[2] != answers[3]  # Equal conversations, answers of their own.


def test_at_temperature_0_the_most_probable_tokens_are_written(describer: Describer) -> None:
    model = LocalLanguageModel(describer, chat=False)
    [answer] = model.answer([question("<post> a b")], temperature=0.0, seed=3)
    ids = describer.tokenizer("<post> a b", return_tensors="pt")["input_ids"]
    written = []
    for _ in range(6):
        with torch.no_grad():
            following = int(describer.model(ids).logits[0, -1].argmax())
        if following == describer.tokenizer.eos_token_id:
            break
        written.append(following)
        ids = torch.cat([ids, torch.tensor([[following]])], dim=1)
    assert answer is not None
    assert answer.text == describer.tokenizer.decode(written, skip_special_tokens=True)
    assert [answer] == model.answer([question("<post> a b")], temperature=0.0, seed=4)


def test_a_chat_template_renders_all_turns(
    describer: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describer.tokenizer, "chat_template", CHAT_TEMPLATE)
    model = LocalLanguageModel(describer, chat=True)
    [answer] = model.answer([TALK], temperature=0.9, seed=0)
    sent = "<|user|>Who?<|assistant|>me <think><|user|>Why?<|model|>"
    [expected] = describer.complete([sent], seed=0)
    assert answer is not None
    assert (answer.text, answer.prompt_tokens) == (expected.text, describer.count_tokens(sent))
    assert answer.completion_tokens == expected.tokens + expected.ended


def test_what_does_not_fit_the_context_has_no_answer(describer: Describer) -> None:
    room = describer.model.config.max_position_embeddings
    model = LocalLanguageModel(describer, chat=False)
    talks = [question("a"), question("a " * room)]
    answers = model.answer(talks, temperature=0.9, seed=0)
    assert [answer is None for answer in answers] == [False, True]
    assert model.unanswered == Counter(too_long=1)


# --- servers -------------------------------------------------------------------------------------


def served(url: str, *, is_tried: bool = True, **changes: Any) -> ServerLanguageModel:
    chat, body = changes.pop("chat", True), changes.pop("body", {})
    where = quick(url, role=PROMPTING, **changes)
    sampling = SamplingSettings(8, temperature=0.9, top_p=0.95, top_k=10)
    model = ServerLanguageModel(
        where, sampling, lambda text: len(text.split()), chat=chat, body=body
    )
    if is_tried:  # That request would be among those that a test counts.
        model.check = lambda: None  # type: ignore[method-assign]
    return model


def echo(body: Body, _: int) -> Reply:
    """The last words, with reasoning, as a vendor sends them."""
    if "messages" not in body:
        return Reply(json.dumps({"choices": [{"text": body["prompt"]}]}).encode())
    message = {"content": body["messages"][-1]["content"], "reasoning_content": "hm"}
    choices = [{"message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    return Reply(json.dumps({"choices": choices, "usage": usage}).encode())


def test_a_server_is_sent_the_whole_conversation() -> None:
    with FaultServer(echo) as server:
        answers = served(server.url).answer([TALK], temperature=0.7, seed=0)
        [received] = server.received
    assert received.path == "/v1/chat/completions"
    assert received.body == {
        "model": "served",
        "messages": chat_messages(TALK),
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 10,
    }
    assert answers == [Written("Why?", "hm", "stop", 11, 7)]


def test_a_server_that_knows_no_chats_is_sent_the_texts() -> None:
    with FaultServer(echo) as server:
        [answer] = served(server.url, chat=False).answer([TALK], temperature=0.0, seed=0)
        [received] = server.received
    assert received.path == "/v1/completions"
    assert (received.body["prompt"], received.body["temperature"]) == (plain_text(TALK), 0.0)
    assert answer is not None
    assert answer.text == plain_text(TALK)


def test_answers_stand_in_the_order_of_the_conversations() -> None:
    talks = [question(f"number {number}") for number in range(40)]

    def late_or_soon(body: Body, _: int) -> Reply:
        number = int(body["messages"][0]["content"].split()[1])
        return replace(echo(body, 0), delay=0.03 * (number % 3))

    with FaultServer(late_or_soon) as server:
        answers = served(server.url).answer(talks, temperature=0.7, seed=0)
        assert 1 < server.peak <= 8
    assert [own and own.text for own in answers] == [talk[0].content for talk in talks]


def test_every_fault_is_an_answer_or_is_counted() -> None:
    names = [name for name in FAULTS if name not in ("hang", "slow_bytes")]
    with FaultServer(lambda body, _: FAULTS[body["messages"][0]["content"]].reply(body)) as server:
        model = served(server.url, body={"n": 1}, max_retries=1, dead_after=10_000)
        answers = model.answer(list(map(question, names)), temperature=0.7, seed=0)
    reasons = [FAULTS[name].reason for name in names]
    assert [own is None for own in answers] == [reason is not None for reason in reasons]
    expected = Counter(reason for reason in reasons if reason is not None)
    # What is no answer to a judge is none here, and is malformed for it.
    expected["malformed"] += expected.pop("label_mass", 0)
    assert model.unanswered == expected


def test_it_gives_up_on_a_server_that_is_out() -> None:
    talks = [question(f"number {number}") for number in range(300)]
    with FaultServer(lambda _, __: refusal(500)) as server:
        model = served(server.url, max_retries=0)
        with pytest.raises(UserError, match=r"language_model\.server: no answer to 5\d requests"):
            model.answer(talks, temperature=0.7, seed=0)
        assert GIVE_UP_AFTER <= len(server.received) < GIVE_UP_AFTER + 10


def test_a_server_is_tried_with_one_short_request_before_it_is_asked() -> None:
    with FaultServer(echo) as server:
        model = served(server.url, is_tried=False)
        model.answer([TALK], temperature=0.7, seed=0)
        model.answer([TALK], temperature=0.7, seed=0)
        assert [received.body["max_tokens"] for received in server.received] == [16, 8, 8]
    with pytest.raises(UserError, match=r"language_model\.server\.urls"):
        served(server.url, is_tried=False).answer([TALK], temperature=0.7, seed=0)

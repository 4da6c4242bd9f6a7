"""Teachers give text or a reason why not; what they wrote is read the same whoever separated it."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import as_message
from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.encoding import as_message as in_template
from alignxplore_trl.judging.written import Written, completion_of
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.teachers import (
    Arrival,
    Ask,
    LocalTeacher,
    ServerTeacher,
)
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet
from tests.judging.fault_server import (
    FAULTS,
    PASSING,
    TOO_LATE,
    Body,
    FaultServer,
    Received,
    Reply,
    refusal,
    right,
)
from tests.synthesis.teaching import (
    SAMPLING,
    ask,
    choice,
    no_keep,
    pulling,
    server_teacher,
    written,
)

KEY = "sk-very-secret-0123456789"


def answers_of(teacher: ServerTeacher | LocalTeacher, asks: Sequence[Ask]) -> list[Arrival]:
    return [own for batch in teacher.write(pulling(asks), no_keep, 0) for own in batch]


def exchanged(
    reply: Reply, *, chat: bool = False, prompt: str = "Who?\n<think>", **options: Any
) -> tuple[Written | Unanswered, Received]:
    """What a server's reply is made into, and the request that it was sent for."""
    with FaultServer(lambda _, __: reply) as server:
        teacher = server_teacher(server.url, chat=chat, **options)
        [(_, answer)] = answers_of(teacher, [ask(prompt=prompt)])
        return answer, server.received[0]


# --- servers: what is sent, and what is made of the answer ---------------------------------------


def test_a_prompt_is_sent_as_it_is() -> None:
    answer, sent = exchanged(choice(" a </think>", "length"))
    assert sent.path == "/v1/completions"
    assert sent.body == {
        "model": "served",
        "prompt": "Who?\n<think>",
        "max_tokens": 8,
        "temperature": 0.9,
        "top_p": 0.95,
        "top_k": 10,
    }
    assert answer == Written(" a </think>", None, "length", 11, 7)


def test_a_message_does_not_open_the_reasoning_of_the_model() -> None:
    answer, sent = exchanged(choice(content="hi"), chat=True)
    assert sent.path == "/v1/chat/completions"
    assert sent.body["messages"] == [{"role": "user", "content": "Who?"}]
    assert "prompt" not in sent.body
    assert answer == Written("hi", None, "stop", 11, 7)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "d", "reasoning_content": "r"}, ("d", "r")),
        ({"content": "d", "reasoning": "r"}, ("d", "r")),
        ({"content": None, "reasoning": "r"}, ("", "r")),
        ({"content": "d", "reasoning": ""}, ("d", None)),
        ({"content": "d", "reasoning_content": None, "tool_calls": []}, ("d", None)),
    ],
)
def test_reasoning_that_a_server_separates_is_kept_apart(
    message: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    answer, _ = exchanged(choice(**message), chat=True)
    assert isinstance(answer, Written)
    assert (answer.text, answer.reasoning) == expected


@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_where_a_server_does_not_say_tokens_are_counted(usage: dict[str, None]) -> None:
    message = {"content": "three more words", "reasoning": "two words "}
    content = {"choices": [{"message": message, "finish_reason": None}], **usage}
    answer, _ = exchanged(Reply(json.dumps(content).encode()), chat=True)
    assert answer == Written("three more words", "two words ", None, 2, 5)


def test_fields_are_added_and_taken_out() -> None:
    sampling = replace(SAMPLING, top_k=None)
    body = {"max_tokens": None, "max_completion_tokens": 9, "extra": {"a": [1]}}
    _, sent = exchanged(choice(), sampling=sampling, body=body)
    assert "top_k" not in sent.body
    assert "max_tokens" not in sent.body
    assert (sent.body["max_completion_tokens"], sent.body["extra"]) == (9, {"a": [1]})


def test_a_key_is_sent_and_told_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    caplog.set_level("DEBUG")
    refused = refusal(401, f"Incorrect API key provided: {KEY}")
    with FaultServer(lambda _, __: refused) as server:
        teacher = server_teacher(server.url, key_variable="TEACHER_KEY", is_tried=False)
        [(_, answer)] = answers_of(teacher, [ask()])
        with pytest.raises(UserError, match="TEACHER_KEY") as error_info:
            teacher.check()
        assert {own.headers["authorization"] for own in server.received} == {f"Bearer {KEY}"}
    assert answer == Unanswered("status_401")
    told = (
        teacher.identity,
        repr(answer),
        repr(vars(teacher.language_model.client)),
        repr(error_info.value),
    )
    assert not any(KEY in text for text in (*told, caplog.text))
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match=r"teacher\.server\.key_variable"):
        server_teacher(server.url, key_variable="TEACHER_KEY", is_tried=False)


def test_a_server_that_is_not_there_is_told_with_what_starts_one() -> None:
    with FaultServer(lambda _, __: choice()) as server:
        server_teacher(server.url, is_tried=False).check()
        server_teacher(server.url, chat=True, is_tried=False).check()
    with pytest.raises(UserError, match="make serve-teacher"):
        server_teacher(server.url, is_tried=False).check()


def test_no_more_requests_are_under_way_than_allowed() -> None:
    asks = [ask(number) for number in range(60)]
    with FaultServer(lambda _, __: replace(choice(), delay=0.01)) as server:
        arrivals = answers_of(server_teacher(server.url, concurrency=6), asks)
        assert server.peak == 6
        assert len(server.received) == 60
    assert {own for own, _ in arrivals} == set(asks)


def test_answers_are_kept_before_they_are_given_and_while_nobody_takes_them() -> None:
    asks = [ask(number) for number in range(30)]
    kept: list[Ask] = []
    with FaultServer(lambda _, __: choice()) as server:
        teacher = server_teacher(server.url)
        batches = teacher.write(
            pulling(asks), lambda arrivals: kept.extend(own for own, _ in arrivals), 0
        )
        first = next(batches)
        assert {own for own, _ in first} <= set(kept)
        give_up = time.monotonic() + 20
        while len(kept) < len(asks) and time.monotonic() < give_up:
            time.sleep(0.01)
        assert set(kept) == set(asks)
        assert len(first) + sum(map(len, batches)) == len(asks)


def test_nothing_more_is_asked_when_nobody_wants_it() -> None:
    pulled = kept = 0

    def pull() -> Ask:
        nonlocal pulled
        pulled += 1
        return ask(pulled)

    def keep(arrivals: Sequence[Arrival]) -> None:
        nonlocal kept
        kept += len(arrivals)

    with FaultServer(lambda _, __: replace(choice(), delay=0.01)) as server:
        batches = server_teacher(server.url, concurrency=4).write(pull, keep, 0)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        most = pulled
        give_up = time.monotonic() + 20
        while kept < pulled and time.monotonic() < give_up:
            time.sleep(0.01)
        assert kept == pulled == len(server.received) <= most + 4
        assert threading.active_count() < 20


def test_an_error_in_what_keeps_answers_reaches_who_waits_for_them() -> None:
    def keep(arrivals: Sequence[Arrival]) -> None:
        raise UserError("no room")

    with FaultServer(lambda _, __: choice()) as server:
        teacher = server_teacher(server.url)
        with pytest.raises(UserError, match="no room"):
            list(teacher.write(pulling([ask(n) for n in range(20)]), keep, 0))


# --- servers: every way to fail ------------------------------------------------------------------

REPLIES = {
    "half a character": b'{"choices": [{"text": "\\ud800"}]}',
    "a whole one in halves": b'{"choices": [{"text": "\\ud83d\\ude00"}]}',
    "not UTF-8": b'{"choices": [{"text": "\xff"}]}',
    "zero bytes": b'{"choices": [{"text": "a\\u0000b"}]}',
    "two choices": b'{"choices": [{"text": "a"}, {"text": "b"}]}',
    "neither": b'{"choices": [{"index": 0}]}',
    "a number": b'{"choices": [{"text": 7}]}',
    "unknown finish": b'{"choices": [{"text": "a", "finish_reason": 3}]}',
    "deep": b'{"choices": ' + b"[" * 5000,
    "more tokens than there are": b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": 1e30}}',
    "far more tokens": b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": ' + b"9" * 40
    + b"}}",
    "fewer than none": b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": -5}}',
    "tokens as text": b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": "many"}}',
}  # fmt: skip
# What was written and paid for is read, whatever else a server says.
READ = {
    "half a character": "\ufffd",
    "a whole one in halves": "😀",
    "zero bytes": "a\0b",
    "unknown finish": "a",
    "more tokens than there are": "a",
    "far more tokens": "a",
    "fewer than none": "a",
    "tokens as text": "a",
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_strange_answer_is_read_or_counted(name: str) -> None:
    answer, _ = exchanged(Reply(REPLIES[name]))
    if name in READ:
        assert answer == Written(READ[name], None, None, 2, 1)
    else:
        assert answer == Unanswered("malformed")


@pytest.mark.parametrize("chat", [False, True])
def test_every_fault_ends_in_an_answer_or_in_its_reason(chat: bool) -> None:
    """Each prompt meets one fault each time it is sent."""
    asks = [ask(place, prompt=name) for place, name in enumerate(FAULTS)]

    def plan(body: Body, _: int) -> Reply:
        return FAULTS[body["messages"][0]["content"] if chat else body["prompt"]].reply(body)

    with FaultServer(plan) as server:
        teacher = server_teacher(
            server.url,
            chat=chat,
            body={"n": 1},
            concurrency=64,
            # Far less than a hanging server takes, and far more than a busy machine does.
            request_timeout=4.0,
            max_retries=1,
            dead_after=10_000,
        )
        arrivals = dict(answers_of(teacher, asks))
    assert len(arrivals) == len(FAULTS)
    for own, answer in arrivals.items():
        reason = FAULTS[own.prompt].reason
        if reason is None:
            assert isinstance(answer, Written), own.prompt
        else:
            # What is no answer to a judge is none to a teacher, and is malformed for it.
            assert isinstance(answer, Unanswered), own.prompt
            assert answer.reason == ("malformed" if reason == "label_mass" else reason), own.prompt
    assert teacher.language_model.measurements.retries == sum(
        fault.reason in PASSING for fault in FAULTS.values()
    )


def test_a_server_is_tried_once_with_one_short_request() -> None:
    with FaultServer(lambda _, __: choice("hello")) as server:
        teacher = server_teacher(server.url, is_tried=False)
        teacher.check()
        teacher.check()
        [received] = server.received
    assert received.body["max_tokens"] == 16


def test_what_passes_is_asked_again() -> None:
    def at_the_second_time(body: Body, attempt: int) -> Reply:
        return refusal(503) if attempt == 0 else right(body)

    with FaultServer(at_the_second_time) as server:
        teacher = server_teacher(server.url, body={"n": 1})
        assert isinstance(answers_of(teacher, [ask()])[0][1], Written)


def test_a_server_that_never_answers_ends_at_the_deadline() -> None:
    with FaultServer(lambda _, __: replace(choice(), delay=TOO_LATE)) as server:
        teacher = server_teacher(server.url, deadline=0.3)
        begun = time.monotonic()
        arrivals = answers_of(teacher, [ask(n) for n in range(8)])
        assert time.monotonic() - begun < 5
    assert {answer for _, answer in arrivals} == {Unanswered("deadline")}


# --- what was written, as the parser reads it ----------------------------------------------------

READ_AS: list[tuple[Written, bool, Inference | FormatProblem]] = [
    (written(" r </think> <answer> d </answer>"), False, Inference("r", "d")),
    (written(" r </think> <answer> d </answer>"), True, Inference("r", "d")),
    (written("<think> r </think> <answer> d </answer>"), True, Inference("r", "d")),
    (written("\n <think>\nr </think>\n<answer>d</answer>\n"), True, Inference("r", "d")),
    (written("<answer> d </answer>", reasoning="r"), True, Inference("r", "d")),
    (written("<answer> d </answer>", reasoning=" r\n"), False, Inference("r", "d")),
    # The form asked for counts, whatever was thought before it.
    (written("r </think> <answer> d </answer>", reasoning="s"), True, Inference("r", "d")),
    (written("<think> r </think> <answer> d </answer>", reasoning="s"), True, Inference("r", "d")),
    # A prompt has opened it already.
    (written("<think> r </think> <answer> d </answer>"), False, FormatProblem.REPEATED_TAG),
    (written("<answer> d </answer>"), True, FormatProblem.THINK_NOT_CLOSED),
    (written("", reasoning="r"), True, FormatProblem.NO_ANSWER),
    (written("<answer> d", reasoning="r"), True, FormatProblem.ANSWER_NOT_CLOSED),
    (written("So: <answer> d </answer>", reasoning="r"), True, FormatProblem.TEXT_BEFORE_ANSWER),
    (written("<answer> d </answer>", reasoning="  "), True, FormatProblem.EMPTY_REASONING),
    (written(""), False, FormatProblem.THINK_NOT_CLOSED),
]


@pytest.mark.parametrize(("answer", "chat", "outcome"), READ_AS)
def test_the_parser_reads_what_was_written(
    answer: Written, chat: bool, outcome: Inference | FormatProblem
) -> None:
    assert parse_completion(completion_of(answer, chat)) == outcome


PARTS = (
    st.text(st.characters(exclude_characters="<>", codec="utf-8"), min_size=1)
    .map(str.strip)
    .filter(lambda text: any(letter.isalnum() for letter in text))
)


@given(PARTS, PARTS)
def test_it_is_the_same_whoever_opens_or_separates_the_reasoning(r: str, d: str) -> None:
    answers = [
        written(f"<think> {r} </think> <answer> {d} </answer>"),
        written(f"<answer> {d} </answer>", reasoning=r),
        written(f"{r} </think> <answer> {d} </answer>"),
    ]
    assert {parse_completion(completion_of(own, chat=True)) for own in answers} == {Inference(r, d)}


@given(st.text(), st.none() | st.text(), st.booleans())
def test_whatever_was_written_is_read(text: str, reasoning: str | None, chat: bool) -> None:
    parse_completion(completion_of(written(text, reasoning=reasoning), chat))


@given(st.text())
def test_a_message_is_the_prompt_without_its_end(prompt: str) -> None:
    assert as_message(f"{prompt}\n<think>\n") == prompt.rstrip()


# --- a model in this process ---------------------------------------------------------------------

PROMPTS = ["<post> a<think>", "<post> a b c d<think>", "<think>", "x<think>", "x<think>"]
CHAT_TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|model|>"


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
        batch_size=2,
    )


def local(describer: Describer, **options: Any) -> LocalTeacher:
    return LocalTeacher(describer, "random", 0, **options)


def test_a_local_teacher_writes_what_its_describer_does(describer: Describer) -> None:
    asks = [ask(number, prompt=prompt) for number, prompt in enumerate(PROMPTS)]
    expected = describer.complete(PROMPTS, seed=7)
    before = torch.get_rng_state()
    batches: list[list[Arrival]] = []
    kept: list[Arrival] = []
    for batch in local(describer).write(pulling(asks), kept.extend, 7):
        assert kept[-len(batch) :] == batch
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(len(batches) + 1)  # What others draw between batches changes nothing.
        before = torch.get_rng_state()
        batches.append(batch)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    found = {own.number: answer for batch in batches for own, answer in batch}
    assert found == {
        number: Written(
            completion.text,
            None,
            "stop" if completion.ended else "length",
            describer.count_tokens(PROMPTS[number]),
            completion.tokens,
        )
        for number, completion in enumerate(expected)
    }


def test_what_is_given_later_is_sampled_from_another_stream(describer: Describer) -> None:
    """A budget gives some at first, and more when those have cost less."""
    gives: list[Ask | None] = [ask(0), ask(1), None, ask(2), ask(3), None, None]
    teacher = local(describer)
    [first, second] = list(teacher.write(lambda: gives.pop(0), no_keep, 3))
    assert [own.number for own, _ in [*first, *second]] == [0, 1, 2, 3]
    assert [answer for _, answer in first] != [answer for _, answer in second]


def test_a_local_teacher_that_chats_is_sent_its_template(
    describer: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describer.tokenizer, "chat_template", CHAT_TEMPLATE)
    teacher = local(describer, render=lambda text: in_template(describer.tokenizer, text))
    [(_, answer)] = answers_of(teacher, [ask(prompt="Who?\n<think>")])
    sent = "<|user|>Who?<|model|>"
    [expected] = describer.complete([sent], seed=0)
    assert isinstance(answer, Written)
    assert (answer.text, answer.prompt_tokens) == (expected.text, count_tokens(describer, sent))
    assert teacher.chat
    assert teacher.identity != local(describer).identity


def count_tokens(describer: Describer, text: str) -> int:
    return len(describer.tokenizer(text)["input_ids"])


def test_a_template_writes_the_special_tokens_itself(
    describer: Describer, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that begins each text with a token: a prompt has it once, and so has a chat."""
    own = copy.deepcopy(tokenizer)
    start, template = str(own.eos_token), "{{ eos_token }}{{ messages[0].content }}"
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, own.eos_token_id)]
    )
    own.chat_template = template
    describer.tokenizer = own
    generated: list[list[int]] = []

    def generate(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        generated.extend(input_ids.tolist())
        return input_ids

    monkeypatch.setattr(describer.model, "generate", generate)
    words = own("Who?", add_special_tokens=False)["input_ids"]
    for render in (None, lambda text: in_template(own, text)):
        describer.add_special_tokens = render is None
        teacher = local(describer, render=render)
        [(_, answer)] = answers_of(teacher, [ask(prompt="Who?")])
        assert generated.pop() == [own.eos_token_id, *words]
        assert isinstance(answer, Written)
        assert answer.prompt_tokens == 1 + len(words)

"""Writers: a text depends on nothing but what it is of, and what is no answer is never one."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alignxplore_trl.inference.writers import (
    EndpointWriter,
    TransformersWriter,
    Written,
    as_completion,
    as_message,
    read_answer,
)
from alignxplore_trl.run.errors import UserError
from tests.run.stub_server import Reply, StubServer

TEACHER = Path(__file__).parents[2] / "assets" / "teacher"
PROMPT = "<post> 1 buying chairs nearby<chosen> outsider, doubt<rejected> feelings, rush<think>"
PROMPTS = [
    PROMPT,
    "<post> 1 moving ovens outside<chosen> haha, perhaps<rejected> rush, doubt<think>",
    "<post> b<think>",
]
DRAWING: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 10}
DRAWING |= {"max_new_tokens": 24, "chat": False}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def writer(model: Path = TEACHER, **settings: Any) -> TransformersWriter:
    given = {"dtype": "float32", "batch_size": 8, **DRAWING, **settings}
    return TransformersWriter(model=str(model), **given)


def texts(answers: list[list[Written | None]]) -> list[list[str]]:
    return [[own.text for own in row if own is not None] for row in answers]


def test_a_text_depends_on_seed_prompt_and_number_alone() -> None:
    one = writer()
    written = texts(one.write(PROMPTS, samples=4, seed=3))
    assert all(len(row) == 4 for row in written)
    assert len({text for row in written for text in row}) > 6
    assert texts(one.write(PROMPTS[::-1], samples=4, seed=3))[::-1] == written
    assert texts(one.write(PROMPTS[1:2], samples=2, seed=3)) == [written[1][:2]]
    alone = dict[int, Written]()
    writer(batch_size=3).write_each([(PROMPT, 2), ("<post>", 0)], 3, alone.update)
    assert alone[0].text == written[0][2]
    assert texts(one.write(PROMPTS, samples=4, seed=4)) != written


@pytest.mark.parametrize(("heat", "top_p", "top_k"), [(2.0, 0.9, 8), (3.0, 1.0, None)])
def test_tokens_are_drawn_as_sampling_asks(heat: float, top_p: float, top_k: int | None) -> None:
    """By softmax(z / t), cut to the top k, then to the fewest tokens of mass p, as transformers."""
    model = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32)
    tokenizer, head, count = AutoTokenizer.from_pretrained(TEACHER), PROMPT + " 1", 3000
    with torch.inference_mode():
        scores = model(torch.tensor([tokenizer(head)["input_ids"]])).logits[:, -1].double() / heat
    for warp in (TopKLogitsWarper(top_k or scores.shape[1]), TopPLogitsWarper(top_p)):
        scores = warp(None, scores)
    expected = Counter[str]()
    for token, share in enumerate(torch.softmax(scores[0], 0).tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += share
    one = writer(max_new_tokens=1, batch_size=1000, temperature=heat, top_p=top_p, top_k=top_k)
    drawn = Counter(texts(one.write([head], count))[0])
    for text, share in expected.items():
        spread = 4 * (share * (1 - share) / count) ** 0.5 + (share > 0) / count
        assert drawn[text] / count == pytest.approx(share, abs=spread)


def test_at_temperature_0_the_most_probable_tokens_are_taken() -> None:
    model = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    output = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :]
    expected = tokenizer.decode(output, skip_special_tokens=True)
    assert texts(writer(temperature=0.0).write([PROMPT], 2)) == [[expected] * 2]


def test_any_end_token_of_the_generation_config_ends_a_text(tmp_path: Path) -> None:
    folder = shutil.copytree(TEACHER, tmp_path / "model")
    count, file = AutoTokenizer.from_pretrained(TEACHER), folder / "generation_config.json"
    ends = {"eos_token_id": [1, count("a;")["input_ids"][-1]]}
    file.write_text(json.dumps(json.loads(file.read_text()) | ends))
    [[whole]], [[short]] = texts(writer().write([PROMPT])), writer(folder).write([PROMPT])
    assert ";" in whole
    # The token that ends a text is counted.
    text = whole.partition(";")[0].rstrip()
    assert short == Written(
        text, len(count(PROMPT)["input_ids"]), len(count(text)["input_ids"]) + 1
    )


def test_a_prompt_beyond_the_context_has_no_answer_and_memory_is_given_back() -> None:
    one = writer()
    answers = one.write(["<post> " * 2100, PROMPT])
    assert [row[0] is None for row in answers] == [True, False]
    assert one.counts == {"too_long": 1}
    one.close()
    assert one._model is None
    assert texts(one.write([PROMPT])) == texts(answers[1:])


def test_a_chat_is_asked_through_its_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        writer(chat=True).load()
    folder = shutil.copytree(TEACHER, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}"
    )
    [[own]], [[plain]] = (
        texts(one.write([PROMPT])) for one in (writer(folder, chat=True), writer())
    )
    assert own.strip() == plain.strip()


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="temperature"):
        writer(**wrong)


def test_a_message_lacks_what_the_model_opens_itself() -> None:
    for prompt in ("User: Who?\n\nAssistant: <think>", "Who?\n<think>\n", "User: Who?\nAssistant:"):
        assert as_message(prompt) == "Who?"
    assert as_message("A <think> within") == "A <think> within"


FORM = " r </think> <answer> d </answer>"
CHATS = {
    ("<think>" + FORM, ""): FORM,
    ("<answer> d </answer>", "r "): FORM,
    # Reasoning in the form that was asked for is the one that counts.
    ("<think>" + FORM, "its own"): FORM,
    ("<think> own </think> <think>" + FORM, ""): FORM,
    ("no form at all", ""): "no form at all",
}


@pytest.mark.parametrize("given", CHATS)
def test_the_answer_of_a_chat_is_read_from_inside_think(given: tuple[str, str]) -> None:
    assert as_completion(*given) == CHATS[given]


def chat(content: Any, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    return {"choices": [{"message": {"content": content, **more}}], "usage": usage}


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
ANSWERS = {
    "text": ({"choices": [{"text": " r"}]}, Written(" r", 0, 0)),
    "chat": (chat("<answer> d </answer>", reasoning_content="r"), Written(FORM, 7, 5)),
    "other name": (chat("d", reasoning="r"), Written(" r </think> d", 7, 5)),
    "parts": (chat([THINKING, {"type": "text", "text": "d"}]), Written(" hm </think> d", 7, 5)),
    "half a character": ({"choices": [{"text": "a \ud83d b"}]}, Written("a \ufffd b", 0, 0)),
}
NO_ANSWERS = {
    "unfinished reasoning": chat(None, reasoning_content="and then"),
    "unfinished part": chat([THINKING]),
    "empty": chat(""),
    "blank": {"choices": [{"text": " \n"}]},
    "upstream error": {"choices": [{"text": "", "finish_reason": "error"}]},
    "error in a success": {"error": {"message": "overloaded", "code": 500}},
    "a page of a proxy": b"<html>busy</html>",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_servers(name: str) -> None:
    sent, expected = ANSWERS[name]
    assert read_answer(sent) == expected


def endpoint(url: str, **settings: Any) -> EndpointWriter:
    return EndpointWriter(urls=[url], served_as="m", deadline=8.0, **{**DRAWING, **settings})


def test_what_is_no_answer_is_none_and_counted() -> None:
    with StubServer(lambda body, _: Reply(NO_ANSWERS[body["prompt"]])) as server:
        one = endpoint(server.url)
        assert one.write(list(NO_ANSWERS)) == [[None]] * len(NO_ANSWERS)
    assert one.counts.total() == len(NO_ANSWERS)


def test_requests_hold_what_was_set_and_answers_arrive_one_by_one() -> None:
    def plan(body: dict[str, Any], attempt: int) -> Reply:
        return Reply({"choices": [{"text": f"{body['prompt']} {attempt}"}]})

    arrived: list[Mapping[int, Written]] = []
    with StubServer(plan) as server:
        one = endpoint(server.url, top_k=None, body={"top_p": None, "seed": 1})
        one.load()
        one.write_each([("a", 0), ("b", 0), ("a", 1)], 0, arrived.append)
    expected = {"model": "m", "prompt": "b", "max_tokens": 24, "temperature": 0.9, "seed": 1}
    assert [body for body in server.received if body["prompt"] == "b"] == [expected]
    assert len(arrived) == 3
    texts = {place: own.text for found in arrived for place, own in found.items()}
    assert {texts[0], texts[2]} == {"a 0", "a 1"}
    assert texts[1] == "b 0"


def test_a_chat_is_sent_messages() -> None:
    with StubServer(lambda body, _: Reply(chat("<answer> d </answer>", reasoning="r"))) as server:
        answers = endpoint(server.url, chat=True).write(["User: Who?\n\nAssistant: <think>"])
    assert answers == [[Written(FORM, 7, 5)]]
    assert server.received[0]["messages"] == [{"role": "user", "content": "Who?"}]
    assert "prompt" not in server.received[0]


def test_a_server_that_is_out_ends_the_call_and_one_that_is_not_there_is_said_first() -> None:
    with StubServer(lambda body, _: Reply({"error": {"message": "no"}}, status=400)) as server:
        with pytest.raises(UserError, match="no answer to 50"):
            endpoint(server.url).write([str(n) for n in range(200)])
        assert len(server.received) < 200
        with pytest.raises(UserError, match="status_400"):
            endpoint(server.url).load()

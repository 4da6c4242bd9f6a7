"""The sampled judge: shares of what was written, against the probabilities they estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from alignxplore_trl.data.world import World
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.sampled import LocalAnswerWriter, SampledJudge
from alignxplore_trl.text.rendering import PromptSet, Question

ASSETS = Path(__file__).parents[2] / "assets"
A, B, NEITHER = '{"selection": "Response A"}', "{'selection': 'b'}", "I can't say."
QUESTIONS = [
    Question("fixing bikes", "prefers brief", "tldr, haha", "furthermore, study"),
    Question("a much longer post about " + "many boats " * 20, None, "haha", "soberly " * 9),
    Question("naming hats", "prefers formal, warm, quick", "hereby", "dude, now"),
]


@dataclass
class Notebook:
    """Hands out the answers that stand under the post of a question."""

    answers: dict[str, list[str] | None]
    asked: list[str] = field(default_factory=list)

    def write(self, prompts: Sequence[str], samples: int) -> list[list[str] | None]:
        self.asked += prompts
        return [
            next(own for post, own in self.answers.items() if f"<post> {post}<" in prompt)
            for prompt in prompts
        ]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=len(self.asked), unanswered={"refused": 1})


def question(post: str) -> Question:
    return Question(post, "prefers brief", "tldr", "moreover")


def test_what_cannot_be_read_is_left_out_and_no_vote() -> None:
    answers: dict[str, list[str] | None] = {
        "agreed": [A, A, A, A],
        "split": [A, B, B, NEITHER],
        "mumbled": [A, NEITHER, NEITHER, NEITHER],
        "unread": [NEITHER] * 4,
        "silent": None,
        "empty": [],
    }
    judge = SampledJudge(Notebook(answers), PromptSet("compact"), samples=4)
    agreed, split, *nothing = judge.judge([question(post) for post in answers])
    assert agreed is not None
    assert split is not None
    assert (agreed.probability_a, agreed.label_mass) == (1.0, 1.0)
    assert (split.probability_a, split.label_mass) == (pytest.approx(1 / 3), 0.75)
    assert nothing == [None, None, None, None]
    measured = judge.take_measurements()
    assert measured.unanswered == {"refused": 1, "label_mass": 1, "unreadable": 2}
    assert measured.questions == 6
    assert measured.label_masses == [1.0, 0.75]
    assert judge.take_measurements().label_masses == []


def test_one_sample_is_the_way_of_the_published_code() -> None:
    notebook = Notebook({"a": [A], "b": [B], "neither": [NEITHER]})
    judge = SampledJudge(notebook, PromptSet("compact"), samples=1)
    verdicts = judge.judge([question(post) for post in ("a", "b", "neither")])
    assert [v and (v.probability_a, v.label_mass) for v in verdicts] == [(1, 1), (0, 1), None]
    assert notebook.asked[0] == PromptSet("compact").judgement(question("a"))


def test_a_judge_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="samples"):
        SampledJudge(Notebook({}), PromptSet("compact"), samples=0)


def writer_with(
    model: PreTrainedModel, tokenizer: Tokenizer, **options: object
) -> LocalAnswerWriter:
    settings = {"max_new_tokens": 6, "temperature": 1.0, "max_batch_tokens": 4096, "seed": 0}
    return LocalAnswerWriter(model, tokenizer, **{**settings, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judge_model() -> tuple[PreTrainedModel, Tokenizer]:
    folder = ASSETS / "judge"
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_are_the_probabilities_of_the_shipped_judge(
    judge_model: tuple[PreTrainedModel, Tokenizer], prompts: PromptSet, temperature: float
) -> None:
    """At temperature T the log-odds of the letters are those of the local judge over T."""
    model, tokenizer = judge_model
    case = World(seed=0).case("test", 3)
    unclear = [
        Question(case.target.post, description, case.target.chosen, case.target.rejected)
        for description in (None, "prefers brief, detailed", "prefers factual")
    ]
    local = LocalJudge(model, tokenizer, prompts, max_batch_tokens=4096).judge(unclear)
    writer = writer_with(
        model,
        tokenizer,
        max_new_tokens=1,
        temperature=temperature,
        max_batch_tokens=10**6,
        answer_start='{"selection": "Response',
        answer_end='"}',
    )
    samples = 500
    sampled = SampledJudge(writer, prompts, samples=samples).judge(unclear)
    for exact, verdict in zip(local, sampled, strict=True):
        assert exact is not None
        assert verdict is not None
        odds = math.log(exact.probability_a / (1 - exact.probability_a))
        expected = 1 / (1 + math.exp(-odds / temperature))
        deviation = math.sqrt(expected * (1 - expected) / samples)
        assert verdict.probability_a == pytest.approx(expected, abs=4.5 * deviation + 1e-3)
        if temperature == 1.0:
            assert verdict.label_mass == pytest.approx(exact.label_mass, abs=0.02)


def test_an_answer_depends_on_nothing_but_seed_prompt_and_number(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> None:
    texts = [prompts.judgement(question) for question in QUESTIONS]
    together = writer_with(random_model, tokenizer).write(texts, 3)
    one_by_one = writer_with(random_model, tokenizer, max_batch_tokens=1)
    assert [one_by_one.write([text], 3)[0] for text in reversed(texts)] == together[::-1]
    assert [answers[:2] for answers in together if answers] == one_by_one.write(texts, 2)
    assert writer_with(random_model, tokenizer, seed=1).write(texts, 3) != together
    everything = [text for answers in together for text in answers or []]
    assert len(set(everything)) == len(everything)


def test_the_global_random_state_is_neither_read_nor_changed(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = writer_with(random_model, tokenizer).write(["<post> p"], 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert writer_with(random_model, tokenizer).write(["<post> p"], 2) == first


def test_without_temperature_the_most_probable_tokens_are_written(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    [answers] = writer_with(random_model, tokenizer, temperature=0.0).write(["<post> p"], 1)
    ids = tokenizer("<post> p")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            logits = random_model(input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
    written = tokenizer.decode(ids[-6:]).partition("<|end|>")[0]
    assert answers == [written]


def test_a_prompt_without_room_for_an_answer_is_not_asked(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    writer = writer_with(random_model, tokenizer)
    answers = writer.write(["why " * 600, "<post> p", "why " * 600], 2)
    assert (answers[0], answers[2]) == (None, None)
    assert len(answers[1] or []) == 2
    measured = writer.take_measurements()
    assert measured.unanswered == {"too_long": 2}
    assert (measured.questions, measured.lookups, measured.hits) == (3, 3, 1)
    assert measured.requests == len(measured.latencies) == 1
    assert 0 < sum(measured.latencies) <= measured.seconds
    assert writer.take_measurements() == Measurements()
    assert writer.write([], 2) == []


def test_what_the_models_folder_says_of_sampling_does_not_count(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = writer_with(random_model, tokenizer).write(["<post> p"], 4)
    assert random_model.generation_config is not None
    random_model.generation_config.repetition_penalty = 5.0
    random_model.generation_config.top_k = 1
    random_model.generation_config.do_sample = True
    assert writer_with(random_model, tokenizer).write(["<post> p"], 4) == expected


def test_the_chat_template_is_used_and_reasoning_that_it_opens_is_known(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = "<post> {{ messages[0].content }}<reply>"
    try:
        plain = writer_with(random_model, tokenizer).write(["<post> p<reply>"], 1)
        chat = writer_with(random_model, tokenizer, chat=True, temperature=0.0).write(["p"], 1)
        same = writer_with(random_model, tokenizer, temperature=0.0).write(["<post> p<reply>"], 1)
        assert chat == same != plain
        tokenizer.chat_template += "<think>\n"
        [answers] = writer_with(random_model, tokenizer, chat=True).write(["p"], 1)
        assert answers is not None
        assert answers[0].startswith("<think>")
    finally:
        tokenizer.chat_template = None


def test_a_judge_from_a_folder_writes_as_asked(prompts: PromptSet) -> None:
    writer = LocalAnswerWriter.from_folder(
        ASSETS / "judge",
        dtype="float32",
        max_new_tokens=1,
        temperature=1.0,
        max_batch_tokens=4096,
        seed=0,
        answer_start='{"selection": "Response',
        answer_end='"}',
    )
    [answers] = writer.write([prompts.judgement(QUESTIONS[0])], 3)
    assert answers == ['{"selection": "Response A"}'] * 3

"""Prompted language models: what they are asked, how answers are read, and who is left out."""

from __future__ import annotations

import pytest

from alignxplore_trl.baselines.language_model import Conversation
from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.policies import Policy
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import LocalLanguageModel
from alignxplore_trl.inference.prompted import prompted_concise, prompted_reasoning
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.parsing import FormatProblem
from alignxplore_trl.text.rendering import PromptSet
from tests.baselines.scripted import Script, ScriptedModel

PROMPTS = PromptSet("default")
CASES = World(seed=1, signals_per_user=8).cases("test", 3)
BASE, STREAMING = Setting(4), Setting(4, 2)


def policy(name: str, script: Script, *, chat: bool = True):
    model = ScriptedModel(script, chat=chat)
    make = {"concise": prompted_concise, "reasoning": prompted_reasoning}[name]
    writer = make(model, PROMPTS, temperature=0.9, max_prompt_tokens=5000)
    return Policy(f"prompted_{name}", writer, seed=5), model


def test_reasoning_asks_with_the_policys_own_prompt() -> None:
    answers = ["<think> r </think> <answer> d </answer>", "<answer> d </answer>", None]
    place = iter([0, 1, 2])
    prompted, model = policy("reasoning", lambda _, __: answers[next(place)])
    said = prompted.describe_in(BASE, CASES)[BASE]
    [call] = model.calls
    assert [each[0].content for each in call.conversations] == [
        PROMPTS.inference(case.signals[:4], None) for case in CASES
    ]
    assert (call.temperature, call.seed) == (0.9, 5)
    # A malformed answer is the model's; one that isn't there is nobody's, and is left out.
    assert [own.case_id for own in said] == [case.case_id for case in CASES[:2]]
    assert (said[0].reasoning, said[0].description) == ("r", "d")
    assert said[1].format_problem is FormatProblem.THINK_NOT_CLOSED
    assert said[0].completion_tokens == len(str(answers[0]).split())
    assert model.unanswered["silent"] == 1


def test_concise_asks_for_the_description_alone() -> None:
    answers = ["likes jokes", "<answer>likes calm</answer>", " "]
    place = iter([0, 1, 2])
    prompted, model = policy("concise", lambda _, __: answers[next(place)])
    said = prompted.describe_in(BASE, CASES)[BASE]
    assert [each[0].content for each in model.calls[0].conversations] == [
        PROMPTS.concise(case.signals[:4], None) for case in CASES
    ]
    assert [own.description for own in said] == ["likes jokes", "likes calm", None]
    assert [own.reasoning for own in said] == [None] * 3
    assert said[2].format_problem is FormatProblem.EMPTY_DESCRIPTION


def test_a_later_round_reads_the_earlier_description() -> None:
    def script(conversation: Conversation, number: int) -> str | None:
        content = conversation[0].content
        if CASES[0].signals[0].post in content and "earlier_description" not in content:
            return "first words"
        return "" if "earlier_description" not in content else "more words"

    cases = CASES[:1]
    prompted, model = policy("concise", script)
    [said] = prompted.describe_in(STREAMING, cases)[STREAMING]
    assert (said.description, said.earlier) == ("more words", "first words")
    assert model.calls[1].conversations[0][0].content == PROMPTS.concise(
        cases[0].signals[4:], "first words"
    )
    assert [call.seed for call in model.calls] == [5, 6]


@pytest.mark.parametrize("round_without_answer", [1, 2])
def test_a_user_without_an_answer_in_any_round_is_left_out(round_without_answer: int) -> None:
    calls = iter(range(6))

    def script(_: Conversation, __: int) -> str | None:
        # Second user of the first call, or of the second.
        return None if next(calls) == (1, 4)[round_without_answer - 1] else "words"

    prompted, model = policy("concise", script)
    said = prompted.describe_in(STREAMING, CASES)[STREAMING]
    assert [own.case_id for own in said] == [CASES[0].case_id, CASES[2].case_id]
    asked_later = {1: 2, 2: 3}[round_without_answer]
    assert [len(call.conversations) for call in model.calls] == [3, asked_later]


def test_a_prompt_set_without_the_template_is_refused_at_once(tmp_path) -> None:
    for file in PROMPTS.folder.glob("*.jinja"):
        if file.name != "concise.jinja":
            (tmp_path / file.name).write_text(file.read_text())
    with pytest.raises(UserError, match=r"no concise\.jinja"):
        prompted_concise(
            ScriptedModel(lambda _, __: ""), PromptSet(tmp_path), temperature=1, max_prompt_tokens=9
        )


def test_a_prompted_model_of_this_process_writes_what_the_same_model_does_as_a_policy(
    random_model, tokenizer, prompts
) -> None:
    describer = Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=6),
        max_prompt_tokens=40,
        batch_size=4,
    ).at_temperature(0)
    model = LocalLanguageModel(describer, chat=False)
    writer = prompted_reasoning(model, prompts, temperature=0, max_prompt_tokens=40)
    prompted = Policy("policy", writer, seed=5).describe_in(STREAMING, CASES)
    assert prompted == Policy("policy", describer, seed=5).describe_in(STREAMING, CASES)

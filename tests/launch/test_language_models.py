"""The configured language model is loaded, and describes users."""

from __future__ import annotations

import json

import pytest

from alignxplore_trl.baselines.language_model import question
from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.policies import Policy
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.inference.language_models import LocalLanguageModel, ServerLanguageModel
from alignxplore_trl.inference.prompted import prompted_concise, prompted_reasoning
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import EvaluateConfig, NoLanguageModelSettings, read_values
from alignxplore_trl.launch.language_models import load_language_model
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.text.rendering import PromptSet
from tests.judging.fault_server import FaultServer, Reply


def configured(*overrides: str) -> tuple[EvaluateConfig, LocalLanguageModel | ServerLanguageModel]:
    values = {**compose_recipe("evaluate", list(overrides)), "run_name": "x"}
    config = read_values(EvaluateConfig, values, Problems())
    assert config is not None
    settings = config.language_model
    assert not isinstance(settings, NoLanguageModelSettings)
    prompts = PromptSet(config.prompts.folder)
    model = load_language_model(settings, prompts, config.prompts.max_prompt_tokens, config.seed)
    assert isinstance(model, LocalLanguageModel | ServerLanguageModel)
    return config, model


def test_the_small_scale_prompts_the_teacher() -> None:
    config, model = configured()
    prompts = PromptSet(config.prompts.folder)
    cases = World(seed=0).cases("test", 12)
    for make in (prompted_reasoning, prompted_concise):
        writer = make(
            model,
            prompts,
            temperature=model.sampling.temperature,
            max_prompt_tokens=config.prompts.max_prompt_tokens,
        )
        for setting in (Setting(4), Setting(4, 2)):
            said = Policy("prompted", writer, seed=0).describe_in(setting, cases)[setting]
            assert [own.case_id for own in said] == [case.case_id for case in cases]
            assert sum(own.description is not None for own in said) >= 6


def test_a_served_model_is_asked_before_anything_depends_on_it() -> None:
    answer = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    with FaultServer(lambda _, __: Reply(json.dumps(answer).encode())) as server:
        overrides = (
            "language_model=server",
            "language_model.chat=true",
            "language_model.top_k=null",
            "+language_model.body.reasoning_effort=low",
            f"language_model.server.urls=[{server.url}]",
            "language_model.server.served_as=gpt",
        )
        _, model = configured(*overrides)
        [said] = model.answer([question("Who?")], temperature=0.0, seed=0)
        bodies = [received.body for received in server.received]
    assert said is not None
    assert said.text == "hi"
    assert [body["model"] for body in bodies] == ["gpt", "gpt"]
    assert "top_k" not in bodies[1]
    assert (bodies[1]["reasoning_effort"], bodies[1]["temperature"]) == ("low", 0.0)
    with pytest.raises(UserError, match=r"language_model\.server\.urls"):
        configured(*overrides)

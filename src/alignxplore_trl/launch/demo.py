"""From the configuration of the demo to the models behind its page."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from accelerate import PartialState

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.preference_describer import DESCRIBING, PreferenceDescriber
from alignxplore_trl.inference.replies import PersonalReplyWriter
from alignxplore_trl.judging.protocol import Judge
from alignxplore_trl.launch.checks import describing_model
from alignxplore_trl.launch.config import (
    DemoConfig,
    JudgeServer,
    LanguageModelServer,
    LocalJudgeSettings,
    ServerLanguageModelSettings,
)
from alignxplore_trl.launch.language_models import load_language_model
from alignxplore_trl.launch.models import AnyJudgeSettings, load_judge
from alignxplore_trl.text.rendering import PromptSet

Server = TypeVar("Server", JudgeServer, LanguageModelServer)


def models_in_words(config: DemoConfig) -> str:
    """Who describes and who replies; and what to do where no model has been trained."""
    model = describing_model(config)
    replies = f"Replies are by {config.language_model.model}."
    if model is not None:
        return f"Descriptions are by {model}. {replies}"
    return (
        f"Descriptions are by {config.model.teacher}, the teacher, because no model has been "
        f"trained here: make rl-streaming trains one, which this page then takes. {replies}"
    )


def load_describer(config: DemoConfig) -> PreferenceDescriber:
    """The model that describes: a trained one, here or at servers, or else the teacher.

    Raises:
        UserError: it isn't there, or says nothing of how it is asked.
    """
    model, server = describing_model(config), config.demo.server
    if model is None:
        return _teacher(config)
    if not server.urls:
        return PreferenceDescriber.from_pretrained(
            model, device=str(PartialState().device), seed=config.seed
        )
    return PreferenceDescriber.at_servers(
        model,
        server.urls,
        served_as=server.served_as,
        key_variable=server.key_variable,
        request_timeout=config.demo.deadline,
        deadline=config.demo.deadline,
        role=replace(DESCRIBING, section="demo.server"),
    )


def load_replies(config: DemoConfig) -> PersonalReplyWriter:
    """The model that replies, and where it writes several candidates the judge that chooses.

    Raises:
        UserError: a server doesn't answer as it should.
    """
    settings, judge, demo = config.language_model, config.judge, config.demo
    prompts = PromptSet(config.prompts.folder)
    if isinstance(settings, ServerLanguageModelSettings):
        settings = replace(settings, server=_within(demo.deadline, settings.server))
    model = load_language_model(settings, prompts, config.prompts.max_prompt_tokens, config.seed)
    return PersonalReplyWriter(
        model,
        prompts,
        temperature=settings.temperature,
        judge=_judge(judge, config, prompts) if demo.candidates > 1 else None,
        candidates=demo.candidates,
        seed=config.seed,
    )


def _judge(settings: AnyJudgeSettings, config: DemoConfig, prompts: PromptSet) -> Judge:
    if not isinstance(settings, LocalJudgeSettings):
        settings = replace(settings, server=_within(config.demo.deadline, settings.server))
    return load_judge(settings.model, prompts, settings, config.seed)


def _teacher(config: DemoConfig) -> PreferenceDescriber:
    model, sampling = config.model, config.sampling
    writer = Describer.from_folder(
        model.teacher,
        PromptSet(config.prompts.folder),
        dtype=model.dtype,
        device=PartialState().device,
        sampling=SamplingSettings(
            model.max_completion_tokens, sampling.temperature, sampling.top_p, sampling.top_k
        ),
        max_prompt_tokens=config.prompts.max_prompt_tokens,
        batch_size=model.generation_batch_size,
    )
    return PreferenceDescriber(writer, model.teacher, seed=config.seed)


def _within(deadline: float, server: Server) -> Server:
    """A server's settings with no longer deadline than that."""
    return replace(
        server,
        request_timeout=min(server.request_timeout, deadline),
        deadline=min(server.deadline, deadline),
    )

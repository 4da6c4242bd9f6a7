"""From the configuration to models that write texts: teachers, and those that are prompted."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import PartialState
from transformers import AutoTokenizer

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import (
    PROMPTING,
    LocalLanguageModel,
    ServerLanguageModel,
    VllmLanguageModel,
)
from alignxplore_trl.judging.client import ServerRole, ServerSettings
from alignxplore_trl.launch.config import (
    AnyLanguageModelSettings,
    LanguageModelSettings,
    LocalLanguageModelSettings,
    ServerLanguageModelSettings,
    VllmLanguageModelSettings,
)
from alignxplore_trl.text.rendering import PromptSet


def load_language_model(
    settings: AnyLanguageModelSettings, prompts: PromptSet, max_prompt_tokens: int, seed: int
) -> LocalLanguageModel | VllmLanguageModel | ServerLanguageModel:
    """The language model that methods of an evaluation prompt.

    Args:
        settings: which it is, and how it samples.
        prompts: the templates.
        max_prompt_tokens: the budget of a prompt.
        seed: of vLLM's engine.

    Raises:
        UserError: its server doesn't answer as it should.
    """
    match settings:
        case ServerLanguageModelSettings():
            served = load_served(settings, PROMPTING)
            served.check()
            return served
        case VllmLanguageModelSettings():
            return load_vllm(settings, seed)
        case LocalLanguageModelSettings():
            sampler = load_sampler(settings, prompts, max_prompt_tokens)
            return LocalLanguageModel(sampler, chat=settings.chat)


def load_sampler(
    settings: LocalLanguageModelSettings, prompts: PromptSet, max_prompt_tokens: int
) -> Describer:
    """A model in this process, which samples completions."""
    return Describer.from_folder(
        settings.model,
        prompts,
        dtype=settings.dtype,
        device=PartialState().device,
        sampling=sampling_of(settings),
        max_prompt_tokens=max_prompt_tokens,
        batch_size=settings.batch_size,
        add_special_tokens=not settings.chat,
    )


def load_vllm(settings: VllmLanguageModelSettings, seed: int) -> VllmLanguageModel:
    """A model in vLLM in this process."""
    return VllmLanguageModel(
        settings.model,
        sampling_of(settings),
        seed=seed,
        chat=settings.chat,
        engine=settings.engine,
    )


def load_served(settings: ServerLanguageModelSettings, role: ServerRole) -> ServerLanguageModel:
    """A model behind an endpoint, not tried yet.

    Raises:
        UserError: the environment variable for the key isn't set.
    """
    return ServerLanguageModel(
        _servers_of(settings, role),
        sampling_of(settings),
        token_counter(settings.tokenizer),
        chat=settings.chat,
        body=settings.body,
    )


def _servers_of(settings: ServerLanguageModelSettings, role: ServerRole) -> ServerSettings:
    """Where a model is served."""
    server = settings.server
    return ServerSettings(
        tuple(server.urls),
        server.served_as,
        concurrency=server.concurrency,
        request_timeout=server.request_timeout,
        deadline=server.deadline,
        key_variable=server.key_variable,
        role=role,
    )


def sampling_of(settings: LanguageModelSettings) -> SamplingSettings:
    """How a model samples where nothing else is said."""
    return SamplingSettings(
        settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k
    )


def token_counter(source: str) -> Callable[[str], int]:
    """The length of a text in tokens of a model: a folder, or a name on the Hub."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    return lambda text: len(tokenizer(text)["input_ids"])

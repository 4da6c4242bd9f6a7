"""From a recipe's configuration to the models that judge and describe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from accelerate import PartialState
from transformers import AutoTokenizer

from alignxplore_trl.data.world import OPPOSITE
from alignxplore_trl.judging.client import ServerSettings
from alignxplore_trl.judging.generator import Generator, LocalGenerator
from alignxplore_trl.judging.generator_cache import CachedGenerator, identity_of
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.panel import Panel
from alignxplore_trl.judging.protocol import Judge
from alignxplore_trl.judging.sampled import AnswerWriter, LocalAnswerWriter, SampledJudge
from alignxplore_trl.judging.server import ServerAnswerWriter, ServerGenerator, ServerJudge
from alignxplore_trl.launch.config import (
    GeneratedRewardSettings,
    JudgedRewardSettings,
    LocalJudgeSettings,
    LogProbabilityRewardSettings,
    RLConfig,
    SampledJudgeSettings,
    ServerJudgeSettings,
    SynthesizeConfig,
)
from alignxplore_trl.rewards.described import DescriptionReward
from alignxplore_trl.rewards.generated import GeneratedReward
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.rewards.log_probability import LogProbabilityReward
from alignxplore_trl.text.rendering import PromptSet

AnyJudgeSettings = LocalJudgeSettings | ServerJudgeSettings | SampledJudgeSettings


def load_judge(source: str, prompts: PromptSet, settings: AnyJudgeSettings, seed: int) -> Judge:
    """A judge from a folder or by its name on the Hub: on its server, or on this process's device.

    Raises:
        UserError: its server doesn't answer as it should.
    """
    servers = _servers_of(source, settings)
    if isinstance(settings, SampledJudgeSettings):
        return SampledJudge(
            _answer_writer(source, servers, settings, seed),
            prompts,
            samples=settings.samples,
            minimum_label_mass=settings.minimum_label_mass,
        )
    if servers is not None and isinstance(settings, ServerJudgeSettings):
        judge = ServerJudge(
            AutoTokenizer.from_pretrained(source),
            prompts,
            servers,
            minimum_label_mass=settings.minimum_label_mass,
            chat=settings.chat,
            letters=settings.letters,
            layout=settings.layout,
        )
        judge.check()
        return judge
    return LocalJudge.from_folder(
        source,
        prompts,
        dtype=settings.dtype,
        device=PartialState().device,
        max_batch_tokens=settings.max_batch_tokens,
        minimum_label_mass=settings.minimum_label_mass,
        chat=settings.chat,
        layout=settings.layout,
    )


def judge_identity(source: str, settings: AnyJudgeSettings, prompts: PromptSet, seed: int) -> str:
    """What tells a judge's verdicts from those of others: weights, templates, how it is asked."""
    how = without(asdict(settings), "server", "max_batch_tokens", "model", "test_model")
    return json.dumps(
        [
            _identity(source, settings),
            how,
            templates_of(prompts, "judgement"),
            seed if isinstance(settings, SampledJudgeSettings) else None,
        ]
    )


def generator_identity(source: str, settings: AnyJudgeSettings, prompts: PromptSet) -> str:
    """What tells a generator's log-probabilities from those of others."""
    return json.dumps([_identity(source, settings), templates_of(prompts, "reply")])


def _identity(source: str, settings: AnyJudgeSettings) -> str:
    served = _servers_of(source, settings) is not None
    return identity_of(source, dtype="as served" if served else settings.dtype)


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Values without some of their keys."""
    return {key: value for key, value in values.items() if key not in keys}


def templates_of(prompts: PromptSet, start: str) -> list[str]:
    """The text of all templates of a set whose name starts so."""
    return [file.read_text() for file in sorted(prompts.folder.glob(f"{start}*.jinja"))]


def _servers_of(source: str, settings: AnyJudgeSettings) -> ServerSettings | None:
    """Where a judge is served; `None` for one that is loaded here."""
    if isinstance(settings, LocalJudgeSettings):
        return None
    server = settings.server
    served = {
        settings.test_model: (server.test_urls, server.test_served_as),
        settings.model: (server.urls, server.served_as),
    }
    urls, name = served.get(source, ([], ""))
    if not urls:
        return None
    return ServerSettings(
        tuple(urls),
        name,
        concurrency=server.concurrency,
        request_timeout=server.request_timeout,
        deadline=server.deadline,
        key_variable=server.key_variable,
        num_processes=PartialState().num_processes,
    )


def _answer_writer(
    source: str, servers: ServerSettings | None, settings: SampledJudgeSettings, seed: int
) -> AnswerWriter:
    if servers is None:
        return LocalAnswerWriter.from_folder(
            source,
            dtype=settings.dtype,
            device=PartialState().device,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            max_batch_tokens=settings.max_batch_tokens,
            seed=seed,
            chat=settings.chat,
            answer_start=settings.answer_start,
            answer_end=settings.answer_end,
        )
    writer = ServerAnswerWriter(
        servers,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        chat=settings.chat,
        answer_start=settings.answer_start,
        answer_end=settings.answer_end,
    )
    writer.check(settings.samples)
    return writer


def load_generator(
    source: str, prompts: PromptSet, settings: AnyJudgeSettings, max_batch_tokens: int
) -> Generator:
    """The generator of a reward: on the judge's server where there is one, else in this process."""
    servers = _servers_of(source, settings)
    if servers is None or not isinstance(settings, ServerJudgeSettings):
        return LocalGenerator.from_folder(
            source,
            prompts,
            dtype=settings.dtype,
            device=PartialState().device,
            max_batch_tokens=max_batch_tokens,
        )
    generator = ServerGenerator(
        AutoTokenizer.from_pretrained(source),
        prompts,
        replace(servers, concurrency=settings.scoring_concurrency),
        max_tokens=settings.scoring_tokens,
    )
    generator.check()
    return generator


def load_reward(
    settings: JudgedRewardSettings | GeneratedRewardSettings | LogProbabilityRewardSettings,
    config: RLConfig | SynthesizeConfig,
    prompts: PromptSet,
) -> DescriptionReward:
    """A reward with the models it asks: that of RL, or the one that verifies a teacher's work."""
    opposites = OPPOSITE if config.data.name == "world" else None
    if isinstance(settings, JudgedRewardSettings):
        judges = [
            load_judge(source, prompts, config.judge, config.seed)
            for source in (config.judge.model, *settings.panel)
        ]
        return JudgedReward(
            judges[0] if len(judges) == 1 else Panel(judges, settings.agreement),
            config.judge.order,
            config.seed,
            score=settings.score,
            shaping=settings.shaping,
            opposites=opposites,
        )
    generator = load_generator(settings.generator, prompts, config.judge, settings.max_batch_tokens)
    if isinstance(settings, LogProbabilityRewardSettings):
        return LogProbabilityReward(
            generator,
            aggregation=settings.aggregation,
            margin=settings.margin,
            shaping=settings.shaping,
            opposites=opposites,
        )
    on_server = isinstance(generator, ServerGenerator)
    identity = identity_of(
        settings.generator, dtype="as served" if on_server else config.judge.dtype
    )
    return GeneratedReward(
        CachedGenerator(generator, prompts, settings.cache, identity=identity),
        aggregation=settings.aggregation,
        margin=settings.margin,
        shaping=settings.shaping,
        opposites=opposites,
    )

"""From a recipe's configuration to the models that judge and describe."""

from __future__ import annotations

from accelerate import PartialState

from alignxplore_trl.data.world import OPPOSITE
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.generator import LocalGenerator
from alignxplore_trl.judging.generator_cache import CachedGenerator, identity_of
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.panel import Panel
from alignxplore_trl.judging.protocol import Judge
from alignxplore_trl.judging.sampled import LocalAnswerWriter, SampledJudge
from alignxplore_trl.launch.config import (
    EvaluateConfig,
    Evaluation,
    JudgedRewardSettings,
    LocalJudgeSettings,
    LogProbabilityRewardSettings,
    RLConfig,
    SampledJudgeSettings,
    Synthesis,
    SynthesizeConfig,
)
from alignxplore_trl.rewards.described import DescriptionReward
from alignxplore_trl.rewards.generated import GeneratedReward
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.rewards.log_probability import LogProbabilityReward
from alignxplore_trl.text.rendering import PromptSet


def load_judge(
    source: str, prompts: PromptSet, settings: LocalJudgeSettings | SampledJudgeSettings, seed: int
) -> Judge:
    """A judge from a folder or by its name on the Hub, on this process's device."""
    if isinstance(settings, SampledJudgeSettings):
        writer = LocalAnswerWriter.from_folder(
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
        return SampledJudge(
            writer,
            prompts,
            samples=settings.samples,
            minimum_label_mass=settings.minimum_label_mass,
        )
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


def load_reward(config: RLConfig, prompts: PromptSet) -> DescriptionReward:
    """The reward that the configuration asks for, with the models it asks."""
    settings = config.reward
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
    generator = LocalGenerator.from_folder(
        settings.generator,
        prompts,
        dtype=config.judge.dtype,
        device=PartialState().device,
        max_batch_tokens=settings.max_batch_tokens,
    )
    if isinstance(settings, LogProbabilityRewardSettings):
        return LogProbabilityReward(
            generator,
            aggregation=settings.aggregation,
            margin=settings.margin,
            shaping=settings.shaping,
            opposites=opposites,
        )
    identity = identity_of(settings.generator, dtype=config.judge.dtype)
    return GeneratedReward(
        CachedGenerator(generator, prompts, settings.cache, identity=identity),
        aggregation=settings.aggregation,
        margin=settings.margin,
        shaping=settings.shaping,
        opposites=opposites,
    )


def load_describer(
    source: str,
    prompts: PromptSet,
    config: SynthesizeConfig | EvaluateConfig,
    asked: Synthesis | Evaluation,
) -> Describer:
    """A model that writes descriptions, sampled as the recipe asks for."""
    return Describer.from_folder(
        source,
        prompts,
        dtype=config.model.dtype,
        device=PartialState().device,
        sampling=SamplingSettings(
            config.model.max_completion_tokens, asked.temperature, asked.top_p, asked.top_k
        ),
        max_prompt_tokens=config.prompts.max_prompt_tokens,
        batch_size=asked.batch_size,
    )

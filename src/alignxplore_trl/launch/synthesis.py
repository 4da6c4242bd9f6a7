"""From the configuration to a synthesis: the teacher, what verifies it, and what is asked for."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Any

from alignxplore_trl.judging.encoding import as_message
from alignxplore_trl.judging.generator_cache import identity_of
from alignxplore_trl.launch.config import (
    JudgedRewardSettings,
    LocalTeacherSettings,
    ServerTeacherSettings,
    SynthesizeConfig,
    VllmTeacherSettings,
)
from alignxplore_trl.launch.language_models import (
    load_sampler,
    load_served,
    load_vllm,
    sampling_of,
    token_counter,
)
from alignxplore_trl.launch.models import load_reward, templates_of, without
from alignxplore_trl.signals import Attributes
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.asking import Asking, Prices, Spending
from alignxplore_trl.synthesis.candidates import PromptBudget, Synthesis, SynthesisSettings
from alignxplore_trl.synthesis.teachers import (
    TEACHING,
    LocalTeacher,
    ServerTeacher,
    Teacher,
    VllmTeacher,
)
from alignxplore_trl.synthesis.verification import Verifier
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.outage import OutageSettings


def load_synthesis(config: SynthesizeConfig) -> Synthesis:
    """A synthesis that is ready to run, with its models.

    Raises:
        UserError: the judge's server doesn't answer as it should, or a template is missing.
    """
    prompts = PromptSet(config.prompts.folder)
    if config.synthesis.dimensions == "teacher":
        prompts.dimensions(Attributes(""))  # Missed now, and not after the models are loaded.
    answers = TeacherAnswers(config.synthesis.cache)
    # The judge first: a server that doesn't answer is found before the teacher is loaded. That of a
    # teacher is asked when it turns out that something isn't there yet.
    verifier = _load_verifier(config, prompts, answers)
    teacher = _load_teacher(config, prompts)
    longest = config.prompts.max_prompt_tokens
    return Synthesis(
        Asking(teacher, answers, Spending(_prices(config))),
        verifier,
        prompts,
        student=PromptBudget(token_counter(config.model.backbone), longest),
        teacher=PromptBudget(teacher.count_tokens, longest),
        settings=SynthesisSettings(
            candidates=config.synthesis.candidates,
            per_round=config.setting.signals,
            rounds=config.setting.rounds,
            earlier=config.synthesis.earlier,
            guidance=config.synthesis.dimensions,
            most_dimensions=config.synthesis.most_dimensions,
            budget=config.synthesis.budget,
            outage=OutageSettings(**asdict(config.verification.outage)),
            seed=config.seed,
        ),
    )


def facts_of(config: SynthesizeConfig) -> dict[str, str]:
    """What a card says of how a data set was made."""
    teacher, asked, sampling = config.teacher, config.synthesis, sampling_of(config.teacher)
    return {
        "teacher": f"{teacher.model} ({teacher.name})",
        "sampling": ", ".join(f"{key} {value}" for key, value in asdict(sampling).items()),
        "verified by": f"{config.verification.name}, {config.judge.model}",
        "users": f"{config.data.name} {config.data.path or ''}".strip(),
        "setting": f"{config.setting.rounds} x {config.setting.signals} signals",
        "candidates per prompt": str(asked.candidates),
        "dimensions": asked.dimensions,
        "kept per prompt": f"{asked.keep_per_prompt or 'all'}, {asked.keep}",
        "earlier descriptions": asked.earlier,
        "limits": f"users {asked.limit or 'all'}, budget {asked.budget or 'none'}",
        "seed": str(config.seed),
    }


def threshold_of(config: SynthesizeConfig) -> float:
    """The score above which a completion has reward 1."""
    verification = config.verification
    return 0.5 if isinstance(verification, JudgedRewardSettings) else verification.margin


def _prices(config: SynthesizeConfig) -> Prices | None:
    prices = config.teacher.prices
    if prices.prompt is None or prices.completion is None:
        return None
    return Prices(prices.prompt, prices.completion)


def _load_teacher(config: SynthesizeConfig, prompts: PromptSet) -> Teacher:
    """The writer of cold-start candidates: in this process, in vLLM, or behind an endpoint."""
    asked = config.teacher
    match asked:
        case ServerTeacherSettings():
            return ServerTeacher(load_served(asked, TEACHING), asked.model)
        case VllmTeacherSettings():
            return VllmTeacher(
                load_vllm(asked, config.seed),
                identity_of(asked.model, dtype=str(asked.engine.get("dtype", "auto"))),
                seed=config.seed,
                batch_size=asked.batch_size,
            )
        case LocalTeacherSettings():
            describer = load_sampler(asked, prompts, config.prompts.max_prompt_tokens)
            return LocalTeacher(
                describer,
                identity_of(asked.model, dtype=asked.dtype),
                config.seed,
                render=partial(as_message, describer.tokenizer) if asked.chat else None,
            )


def _load_verifier(
    config: SynthesizeConfig, prompts: PromptSet, answers: TeacherAnswers
) -> Verifier:
    """What verifies a teacher's completions: a reward of RL, whose verdicts are kept."""
    settings = config.verification
    how: dict[str, Any] = {"seed": config.seed}
    if isinstance(settings, JudgedRewardSettings):
        how |= {
            "reward": [settings.agreement],
            "judges": [
                identity_of(source, dtype=config.judge.dtype)
                for source in (config.judge.model, *settings.panel)
            ],
            "judge": without(asdict(config.judge), "server", "max_batch_tokens", "test_model"),
            "prompts": templates_of(prompts, "judgement"),
        }
    else:
        how |= {
            "reward": [settings.aggregation, settings.margin],
            "generator": identity_of(settings.generator, dtype=config.judge.dtype),
            "prompts": templates_of(prompts, "reply"),
        }
    reward = load_reward(settings, config, prompts)
    return Verifier(reward, json.dumps(how, sort_keys=True), answers)

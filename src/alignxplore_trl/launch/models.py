"""From a recipe's configuration to the models that judge and describe."""

from __future__ import annotations

from accelerate import PartialState

from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.launch.config import (
    EvaluateConfig,
    Evaluation,
    JudgeSettings,
    Synthesis,
    SynthesizeConfig,
)
from alignxplore_trl.text.rendering import PromptSet


def load_judge(source: str, prompts: PromptSet, settings: JudgeSettings) -> LocalJudge:
    """A judge from a folder or by its name on the Hub, on this process's device."""
    return LocalJudge.from_folder(
        source,
        prompts,
        dtype=settings.dtype,
        device=PartialState().device,
        max_batch_tokens=settings.max_batch_tokens,
        minimum_label_mass=settings.minimum_label_mass,
        chat=settings.chat,
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

"""The models that a run will load are there, and its judge can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore_trl.inference.language_models import PROMPTING
from alignxplore_trl.launch.checks import is_served
from alignxplore_trl.launch.config import (
    EvaluateConfig,
    GeneratorRewardSettings,
    JudgedRewardSettings,
    LocalLanguageModelSettings,
    NoLanguageModelSettings,
    RLConfig,
    SampledJudgeSettings,
    ServerJudgeSettings,
    ServerLanguageModelSettings,
    SynthesizeConfig,
    VllmLanguageModelSettings,
)
from alignxplore_trl.launch.entry import upstream_folder
from alignxplore_trl.launch.model_files import FoundModel, NeededModel, read_shape
from alignxplore_trl.launch.preflight.check import (
    Check,
    CheckedConfig,
    TrainingConfig,
    failed,
    passed,
    skipped,
)
from alignxplore_trl.launch.training_memory import reward_models
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import is_finished
from alignxplore_trl.synthesis.teachers import TEACHING


def needed_models(config: CheckedConfig) -> list[NeededModel]:
    """Every model that a run of this recipe loads, the policy of a training first."""
    match config:
        case RLConfig():
            needed = [policy_of(config), *reward_models("reward", config.reward, config)[0]]
        case SynthesizeConfig():
            needed = [
                NeededModel("model.backbone", config.model.backbone, weights=False),
                *_writers("teacher", config.teacher),
                *reward_models("verification", config.verification, config)[0],
            ]
        case EvaluateConfig():
            needed = _of_evaluation(config)
        case _:
            needed = [policy_of(config)]
    by_name: dict[tuple[str, bool], NeededModel] = {}
    for each in needed:
        by_name.setdefault((each.name, each.weights), each)
    return list(by_name.values())


def policy_of(config: TrainingConfig) -> NeededModel:
    """The model that a training starts from; the backbone while the cold start isn't finished."""
    if isinstance(config, RLConfig) and config.start == "cold_start":
        folder = upstream_folder(config, "cold_start")
        if is_finished(folder):
            return NeededModel("upstream.cold_start", str(folder / "model"), weights=True)
    return NeededModel("model.backbone", config.model.backbone, weights=True)


def check_models(found: Mapping[NeededModel, FoundModel]) -> list[Check]:
    """Each can be had: from its folder, the Hub's cache, or the Hub."""
    failures = [
        failed("models", f"{needed.key}: {needed.name}: {own.problem}", own.remedy)
        for needed, own in found.items()
        if own.place is None
    ]
    told = [
        f"{needed.key} {needed.name} ({own.place}{'' if needed.weights else ', tokenizer'})"
        for needed, own in found.items()
    ]
    return failures or [passed("models", ", ".join(told) or "none are loaded")]


def check_judge(config: CheckedConfig, found: Mapping[NeededModel, FoundModel]) -> list[Check]:
    """The judge answers, at letters that its tokenizer tells apart, and isn't wrong.

    A judge in this process is loaded if it is small, since the run will load it anyway.
    """
    places = {needed.name: own for needed, own in found.items()}
    if isinstance(config, EvaluateConfig):
        sources = [config.judge.model, config.judge.test_model, *config.evaluation.judges]
        return [
            check
            for source in dict.fromkeys(sources)
            for check in _check_judge(source, config, places.get(source))
        ]
    if not isinstance(config, RLConfig | SynthesizeConfig):
        return []
    reward = config.reward if isinstance(config, RLConfig) else config.verification
    if isinstance(reward, JudgedRewardSettings):
        return [
            check
            for source in (config.judge.model, *reward.panel)
            for check in _check_judge(source, config, places.get(source))
        ]
    return _check_generator(reward, config)


def _check_judge(source: str, config: Any, found: FoundModel | None) -> list[Check]:
    # Imported here: loading models takes seconds that a mistake in the command needn't wait for.
    from transformers import AutoTokenizer

    from alignxplore_trl.judging.probe import letter_problem
    from alignxplore_trl.launch.models import load_judge
    from alignxplore_trl.text.rendering import PromptSet

    settings, prompts = config.judge, PromptSet(config.prompts.folder)
    if found is not None and found.place not in ("folder", "cache"):
        return [skipped("judge", f"{source} isn't on this machine", f"hf download {source} first")]
    if not isinstance(settings, SampledJudgeSettings):
        try:
            problem = letter_problem(
                AutoTokenizer.from_pretrained(source),
                prompts,
                chat=settings.chat,
                layout=settings.layout,
            )
        except ValueError as error:  # A tokenizer without a chat template.
            problem = " ".join(str(error).split())
        if problem:
            remedy = "choose another judge, JUDGE=sampled, or judge.chat=false for a base model"
            return [failed("judge", f"{source} can't be read at the letter: {problem}", remedy)]
    if not is_served(source, settings):
        assert found is not None
        assert found.config is not None
        try:
            parameters = read_shape(found.config).parameters
        except UserError as error:
            return [failed("judge", problem, "") for problem in error.problems]
        if parameters > config.preflight.asked_parameters:
            line = f"{source} has {parameters / 1e9:.1f} billion parameters and isn't loaded for "
            return [
                skipped("judge", f"{line}this: its letters are right", "make judge-report asks it")
            ]
    try:
        return [_ask(source, load_judge(source, prompts, settings, config.seed))]
    except UserError as error:
        return [failed("judge", problem, "") for problem in error.problems]


def _ask(source: str, judge: Any) -> Check:
    from alignxplore_trl.judging.probe import ENOUGH, OBVIOUS, probe

    answers = probe(judge)
    reasons = "".join(f", {count} without an answer ({reason})"
                      for reason, count in answers.unanswered.items())  # fmt: skip
    line = f"{source}: {answers.right} of {len(OBVIOUS)} obvious questions answered rightly"
    if answers.probability is not None:
        line += f", P(right) {answers.probability:.2f}"
    if answers.label_mass is not None:
        line += f", label mass {answers.label_mass:.2f}"
    line += reasons
    if answers.right >= ENOUGH:
        return passed("judge", line)
    return failed(
        "judge",
        line,
        "look at it with make judge-report; another judge.model, judge.chat, judge.layout or "
        "prompts may help",
    )


def _check_generator(reward: Any, config: Any) -> list[Check]:
    """A generator on a server answers; one in this process needs no more than its weights."""
    from alignxplore_trl.launch.models import load_generator
    from alignxplore_trl.text.rendering import PromptSet

    assert isinstance(reward, GeneratorRewardSettings)
    if not (isinstance(config.judge, ServerJudgeSettings) and config.judge.server.urls):
        return [passed("judge", f"none: the generator {reward.generator} is in this process")]
    try:
        load_generator(
            reward.generator,
            PromptSet(config.prompts.folder),
            config.judge,
            reward.max_batch_tokens,
        )
    except UserError as error:
        return [failed("judge", problem, "") for problem in error.problems]
    return [passed("judge", f"the generator {reward.generator} answers on its server")]


def check_language_model(config: CheckedConfig) -> list[Check]:
    """The server of the teacher, or of what an evaluation prompts, writes a text when asked."""
    match config:
        case SynthesizeConfig(teacher=ServerLanguageModelSettings() as settings):
            section, role = "teacher", TEACHING
        case EvaluateConfig(language_model=ServerLanguageModelSettings() as settings):
            section, role = "language_model", PROMPTING
        case _:
            return []
    # Imported here: loading models takes seconds that a mistake in the command needn't wait for.
    from alignxplore_trl.launch.language_models import load_served

    try:
        load_served(settings, role).check()
    except UserError as error:
        return [failed("language_model", problem, "") for problem in error.problems]
    urls = ", ".join(settings.server.urls)
    return [passed("language_model", f"{section}: {settings.model} answers at {urls}")]


def _writers(section: str, settings: Any) -> list[NeededModel]:
    match settings:
        case ServerLanguageModelSettings():
            return [NeededModel(f"{section}.tokenizer", settings.tokenizer, weights=False)]
        case LocalLanguageModelSettings() | VllmLanguageModelSettings():
            return [NeededModel(f"{section}.model", settings.model, weights=True)]
        case NoLanguageModelSettings():
            return []
    raise TypeError(f"no settings of a language model: {settings}")


def _of_evaluation(config: EvaluateConfig) -> list[NeededModel]:
    asked, judge = config.evaluation, config.judge
    judges: Sequence[tuple[str, str]] = (
        ("judge.model", judge.model),
        ("judge.test_model", judge.test_model),
        *(("evaluation.judges", source) for source in asked.judges),
        *(("evaluation.generators", source) for source in asked.generators),
    )
    writers = {"backbone": config.model.backbone, "teacher": config.model.teacher}
    pairs = (
        [("writer", asked.win_rate.writer), ("judge", asked.win_rate.judge)]
        if asked.win_rate.pairs
        else []
    )
    return [
        *(
            NeededModel(key, source, weights=not is_served(source, judge))
            for key, source in judges
            if not (isinstance(judge, SampledJudgeSettings) and is_served(source, judge))
        ),
        *(
            NeededModel(f"model.{name}", source, weights=True)
            for name, source in writers.items()
            if asked.methods is None or name in asked.methods
        ),
        *(NeededModel(f"evaluation.win_rate.{key}", source, weights=True) for key, source in pairs),
        *_writers("language_model", config.language_model),
    ]


def weights_here(found: FoundModel) -> Path | None:
    """The folder of a model whose tokenizer can be read without a network."""
    return None if found.config is None or found.place == "Hub" else found.config.parent

"""Combinations that can't work, found before any model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignxplore_trl.data.release_files import (
    COLD_START_FILE,
    RL_FILE,
    SIGNALS_IN_PROMPT,
    TEST_FILE,
)
from alignxplore_trl.data.world import Split, World, check_world
from alignxplore_trl.evaluation.methods import PROMPTING
from alignxplore_trl.launch.config import (
    AlignxData,
    AnyData,
    AnyLanguageModelSettings,
    ColdStartConfig,
    DemoConfig,
    EvaluateConfig,
    GeneratorRewardSettings,
    InspectDataConfig,
    JudgedRewardSettings,
    JudgeReportConfig,
    JudgeServer,
    JudgeSettings,
    LanguageModelServer,
    LocalTeacherSettings,
    MappingData,
    NoLanguageModelSettings,
    PrepareConfig,
    PsoupsData,
    RecipeConfig,
    ReleaseData,
    RewardSettings,
    RLConfig,
    SampledJudgeSettings,
    ServerJudgeSettings,
    ServerLanguageModelSettings,
    ServerTeacherSettings,
    StudyConfig,
    SweepConfig,
    SynthesizeConfig,
    VllmLanguageModelSettings,
    VplConfig,
    WorldData,
)
from alignxplore_trl.launch.evaluation_checks import check_what_is_evaluated
from alignxplore_trl.launch.model_folders import SAVE_THERE, folder_problem
from alignxplore_trl.launch.runs import stage_of
from alignxplore_trl.launch.studies import study_problems
from alignxplore_trl.launch.sweeps import sweep_problems
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.training.credit import credit_problems

# Seconds; what transformers takes where the configuration says nothing.
_DDP_TIMEOUT = 1800


def check_config(config: RecipeConfig, problems: Problems) -> None:
    """Add a problem for everything in a configuration that can't work, with the arithmetic."""
    _check_ranges(config, problems)
    if not Path(config.paths.assets).is_dir():
        problems.add(
            f"paths.assets: found no folder {config.paths.assets}; give the command in the "
            "project's root, where make does, or name the folder"
        )
    if isinstance(config, PrepareConfig):
        _check_setting(config, problems)
        _check_data(config.data, config.seed, problems)
        _check_splits(config, problems)
    if isinstance(config, SynthesizeConfig) and not isinstance(config.data, ReleaseData):
        _check_teacher(config, problems)
        _check_verification(config, problems)
        _check_synthesis(config, problems)
    if isinstance(config, SynthesizeConfig) and isinstance(config.data, ReleaseData):
        _check_nothing_is_asked(config, problems)
    if isinstance(config, ColdStartConfig):
        check_model_folder("model.backbone", config.model.backbone, problems)
        _check_no_trl_evaluation(config.trainer, problems)
    if isinstance(config, RLConfig):
        _check_start(config, problems)
        _check_reward(config, problems)
        _check_no_trl_evaluation(config.trainer, problems)
        if not any(problem.startswith("trainer.") for problem in problems.found):
            _check_generation_batch(config, problems)
            _check_credit(config, problems)
            _check_sizes(config, problems)
    if isinstance(config, ColdStartConfig | RLConfig):
        _check_output(config, problems)
        _check_steps(config.trainer, problems)
    if isinstance(config, RLConfig | EvaluateConfig):
        _check_whole_models(config, problems)
    if isinstance(config, VplConfig):
        _check_vpl(config, problems)
    if isinstance(config, EvaluateConfig):
        _check_evaluation(config, problems)
    if isinstance(config, JudgeReportConfig):
        _check_judge(config.judge, 1, problems)
    if isinstance(config, InspectDataConfig):
        _check_inspection(config, problems)
    if isinstance(config, DemoConfig):
        _check_demo(config, problems)
    if isinstance(config, StudyConfig):
        problems.found += study_problems(config)
    if isinstance(config, SweepConfig):
        problems.found += sweep_problems(config)


# The least and the largest value of a key, where a recipe has it.
_RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "completions_every": (1, math.inf),
    "round_credit": (0, 1),
    "prompts.max_prompt_tokens": (1, math.inf),
    "judge.max_batch_tokens": (1, math.inf),
    "judge.minimum_label_mass": (0, 1),
    "judge.samples": (1, math.inf),
    "judge.temperature": (0, math.inf),
    "judge.max_new_tokens": (1, math.inf),
    "judge.scoring_concurrency": (1, math.inf),
    "judge.scoring_tokens": (1, math.inf),
    "reward.max_batch_tokens": (1, math.inf),
    "reward.outage.share": (0, 1),
    "reward.outage.pause_seconds": (0, math.inf),
    "reward.outage.limit_seconds": (0, math.inf),
    "teacher.temperature": (0, math.inf),
    "teacher.top_p": (0, 1),
    "teacher.top_k": (1, math.inf),
    "teacher.max_new_tokens": (1, math.inf),
    "teacher.batch_size": (1, math.inf),
    "teacher.prices.prompt": (0, math.inf),
    "teacher.prices.completion": (0, math.inf),
    "teacher.server.concurrency": (1, math.inf),
    "language_model.temperature": (0, math.inf),
    "language_model.top_p": (0, 1),
    "language_model.top_k": (1, math.inf),
    "language_model.max_new_tokens": (1, math.inf),
    "language_model.batch_size": (1, math.inf),
    "language_model.server.concurrency": (1, math.inf),
    "verification.max_batch_tokens": (1, math.inf),
    "verification.outage.share": (0, 1),
    "verification.outage.pause_seconds": (0, math.inf),
    "verification.outage.limit_seconds": (0, math.inf),
    "synthesis.candidates": (1, math.inf),
    "synthesis.most_dimensions": (1, math.inf),
    "synthesis.keep_per_prompt": (1, math.inf),
    "synthesis.limit": (1, math.inf),
    "synthesis.budget": (0, math.inf),
    "data.cases_per_user": (1, math.inf),
    "data.minimum_dimensions": (1, math.inf),
    "data.test_posts.users": (0, math.inf),
    "data.test_posts.signals": (1, math.inf),
    "data.workers": (1, math.inf),
    "vpl.hidden_size": (1, math.inf),
    "vpl.latent_size": (1, math.inf),
    "vpl.fewest_pairs": (1, math.inf),
    "vpl.epochs": (1, math.inf),
    "vpl.batch_size": (1, math.inf),
    "vpl.learning_rate": (0, math.inf),
    "vpl.warmup_share": (0, 1),
    "vpl.weight_decay": (0, math.inf),
    "vpl.kl_weight": (0, math.inf),
    "vpl.kl_cycle_steps": (1, math.inf),
    "vpl.kl_floor": (0, 1),
    "vpl.max_batch_tokens": (1, math.inf),
    "inspection.cases": (1, math.inf),
    "report.cases": (1, math.inf),
    "evaluation.cases": (1, math.inf),
    "evaluation.batch_size": (1, math.inf),
    "evaluation.temperature": (0, math.inf),
    "evaluation.top_p": (0, 1),
    "evaluation.top_k": (1, math.inf),
    "evaluation.generator_batch_tokens": (1, math.inf),
    "evaluation.win_rate.cases": (1, math.inf),
    "evaluation.win_rate.max_new_tokens": (1, math.inf),
    "report.bins": (1, math.inf),
    "demo.candidates": (1, math.inf),
    "demo.deadline": (1, math.inf),
    "demo.port": (1, 65535),
    "page.cases": (0, math.inf),
    "page.bins": (1, math.inf),
    "preflight.measured": (1, math.inf),
    "preflight.asked_parameters": (0, math.inf),
    "trainer.per_device_train_batch_size": (1, math.inf),
    "trainer.gradient_accumulation_steps": (1, math.inf),
    "trainer.steps_per_generation": (1, math.inf),
    "trainer.num_generations": (2, math.inf),
    "trainer.save_steps": (1, math.inf),
    "trainer.learning_rate": (0, math.inf),
    # -1: as many as the epochs are.
    "trainer.max_steps": (-1, math.inf),
    "sampling.temperature": (0, math.inf),
    "sampling.top_p": (0, 1),
    "sampling.top_k": (1, math.inf),
    "throughput.peak_tflops": (0.001, math.inf),
    "throughput.judge_gpus": (0, math.inf),
    "throughput.price_per_gpu_hour": (0, math.inf),
}


def _check_ranges(config: RecipeConfig, problems: Problems) -> None:
    for key, (least, largest) in _RANGES.items():
        value = _value_at(config, key)
        if isinstance(value, int | float) and not least <= value <= largest:
            limits = f"{least} or more" if largest == math.inf else f"{least} to {largest}"
            problems.add(f"{key}: {value} found, expected {limits}")


def _value_at(config: object, key: str) -> object:
    """The value of a dotted key; `None` where there is no such key."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
    return config


def generation_batch_size(config: RLConfig) -> int:
    """Completions that are generated at once, over all processes."""
    if config.trainer.get("generation_batch_size") is not None:
        return int(config.trainer["generation_batch_size"])
    per_step: int = config.trainer["per_device_train_batch_size"] * config.launch.num_processes
    return per_step * _steps_per_generation(config)


def check_rows(config: RLConfig, rows: int) -> list[str]:
    """Problems with the number of rows there are to train on: too few for one generation batch."""
    batch = generation_batch_size(config)
    prompts = batch // config.trainer["num_generations"]
    needed = prompts * config.setting.rounds
    if rows >= needed:
        return []
    return [
        f"data.counts.rl: {rows} rows (cases x rounds) found, expected at least {needed}: one "
        f"generation batch holds {batch} completions / {config.trainer['num_generations']} "
        f"rollouts = {prompts} prompts, times {config.setting.rounds} rounds; with fewer there "
        "would be no step at all"
    ]


def context_length(folder: str | Path) -> int | None:
    """Positions of a model, from its config.json; `None` for one that is named, not a folder."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    length = json.loads(path.read_text()).get("max_position_embeddings")
    return None if length is None else int(length)


def check_room(key: str, completion: int, prompt: int, model: str | Path) -> list[str]:
    """Problems with a model's context: prompt and completion must both fit.

    Args:
        key: the configuration's key of the completion limit.
        completion: the most tokens of a completion.
        prompt: the most tokens of a prompt.
        model: the model's folder, or its name on the Hub, which isn't checked.
    """
    context = context_length(model)
    if context is None or prompt + completion <= context:
        return []
    return [
        f"{key}: {completion} + prompts.max_prompt_tokens {prompt} = {completion + prompt} found, "
        f"expected at most {context}, the positions of {model}; a prompt of {prompt} tokens leaves "
        f"room for {max(0, context - prompt)}"
    ]


def check_model_folder(key: str, name: str, problems: Problems, *, weights: bool = True) -> None:
    """Add a problem where a model is given as a folder that isn't there or isn't whole.

    A name of the Hub (`owner/model`) is left to preflight.

    Args:
        key: the configuration's key that names it.
        name: a folder, or a name of the Hub.
        problems: gets one more.
        weights: whether its weights are loaded, or its tokenizer alone.
    """
    folder = Path(name)
    if folder.is_dir():
        if problem := folder_problem(folder, weights=weights):
            problems.add(f"{key}: {name}: {problem}; {SAVE_THERE}")
    elif name.count("/") != 1 or folder.parent.exists():
        problems.add(f"{key}: found no folder {name}, expected a model's folder or owner/model")


def is_served(source: str, settings: JudgeSettings) -> bool:
    """Whether a judge is behind a server, and not in this process."""
    if not isinstance(settings, ServerJudgeSettings | SampledJudgeSettings):
        return False
    served = {settings.test_model: settings.server.test_urls, settings.model: settings.server.urls}
    return bool(served.get(source))


def _check_steps(trainer: Mapping[str, Any], problems: Problems) -> None:
    """There is a step, and a resume goes on with the next one."""
    if trainer.get("max_steps") == 0:
        problems.add(
            "trainer.max_steps: 0 found, expected 1 or more, or -1: as many as "
            "trainer.num_train_epochs are"
        )
    for key in ("save_only_model", "ignore_data_skip"):
        if trainer.get(key):
            problems.add(
                f"trainer.{key}: true found, expected false: a run that is resumed would go on as "
                "another"
            )
    epochs = trainer.get("num_train_epochs")
    if isinstance(epochs, int | float) and epochs <= 0:
        problems.add(f"trainer.num_train_epochs: {epochs:g} found, expected more than 0")


def _check_output(config: ColdStartConfig | RLConfig, problems: Problems) -> None:
    """What is saved can be loaded by others, and may be sent where it is to be sent."""
    output = config.output
    if output.weights == "adapters" and config.peft.lora is None:
        problems.add(
            "output.weights: adapters found, expected merged with peft=none, which trains all "
            "weights and no adapters; or give peft=lora"
        )
    if output.push_to_hub is None:
        return
    starts_here = isinstance(config, RLConfig) and config.start == "cold_start"
    if output.weights == "adapters" and (starts_here or Path(config.model.backbone).exists()):
        base = "the cold start's model" if starts_here else config.model.backbone
        problems.add(
            f"output.weights: adapters found with output.push_to_hub, but they go with {base}, "
            "which is a folder here; give merged"
        )
    # Imported here: only who pushes needs the Hub's client.
    from alignxplore_trl.launch.hub import check_hub

    problems.found += check_hub("output.push_to_hub", output.push_to_hub)


def _check_whole_models(config: RLConfig | EvaluateConfig, problems: Problems) -> None:
    """Policies that are loaded are whole models, which every reader of a model can load."""
    for key, name in config.upstream.items():
        folder = Path(config.paths.outputs) / stage_of(key) / str(name)
        if (folder / "model" / "adapter_config.json").is_file():
            problems.add(
                f"upstream.{key}: {folder}/model holds adapters alone, expected a whole model; "
                "train it with output.weights=merged"
            )


def _check_start(config: RLConfig, problems: Problems) -> None:
    if config.start == "cold_start":
        return
    check_model_folder("model.backbone", config.model.backbone, problems)
    if (given := config.upstream["cold_start"]) is not None:
        problems.add(
            f"upstream.cold_start: {given} found, but start=backbone takes up no cold start; leave "
            "one of the two out"
        )


def _check_reward(config: RLConfig, problems: Problems) -> None:
    """The models that the reward asks are there, and their servers in time for the processes."""
    settings, processes = config.judge, config.launch.num_processes
    if isinstance(settings, ServerJudgeSettings | SampledJudgeSettings) and settings.server.urls:
        limit = config.trainer.get("ddp_timeout") or _DDP_TIMEOUT
        if settings.server.deadline >= limit:
            problems.add(
                f"judge.server.deadline: {settings.server.deadline:g} s found, expected less than "
                f"trainer.ddp_timeout, {limit} s, after which waiting processes give up"
            )
    _check_reward_models("reward", config.reward, settings, processes, problems)


def _check_reward_models(
    key: str,
    reward: RewardSettings,
    settings: JudgeSettings,
    processes: int,
    problems: Problems,
) -> None:
    if isinstance(reward, JudgedRewardSettings):
        _check_judge(settings, processes, problems)
        for number, name in enumerate(reward.panel):
            check_model_folder(f"{key}.panel[{number}]", name, problems)
        return
    assert isinstance(reward, GeneratorRewardSettings)
    served = is_served(reward.generator, settings)
    check_model_folder(f"{key}.generator", reward.generator, problems, weights=not served)
    if isinstance(settings, ServerJudgeSettings):
        _check_judge(settings, processes, problems)
        if settings.server.urls and reward.generator != settings.model:
            problems.add(
                f"{key}.generator: {reward.generator} found, expected judge.model, "
                f"{settings.model}, which judge.server.urls serve; give that, or judge=local"
            )


def _check_judge(settings: JudgeSettings, processes: int, problems: Problems) -> None:
    """The judge of training: its folder, where it is loaded or its tokenizer is, or its server."""
    if isinstance(settings, SampledJudgeSettings) and settings.server.urls:
        if settings.chat and settings.answer_start:
            problems.add(
                f"judge.answer_start: {settings.answer_start!r} found, expected '' with judge.chat "
                "on a server, where an answer can't be begun for the model"
            )
    else:
        served = is_served(settings.model, settings)
        check_model_folder("judge.model", settings.model, problems, weights=not served)
    if isinstance(settings, ServerJudgeSettings | SampledJudgeSettings):
        _check_server(settings.server, processes, problems)


def _check_server(server: JudgeServer, processes: int, problems: Problems) -> None:
    if not (server.urls or server.test_urls):
        return
    addresses = {"urls": server.urls, "test_urls": server.test_urls}
    _check_addresses("judge.server", addresses, server, problems)
    if server.concurrency < processes:
        problems.add(
            f"judge.server.concurrency: {server.concurrency} found, expected at least {processes}, "
            "one request for each process"
        )


def _check_addresses(
    section: str,
    addresses: Mapping[str, list[str]],
    server: JudgeServer | LanguageModelServer,
    problems: Problems,
) -> None:
    # Imported here: the client of the servers takes a second that other runs needn't wait for.
    from alignxplore_trl.judging.client import address_problems, read_key

    for key, urls in addresses.items():
        problems.found += address_problems(section, key, urls)
    try:
        read_key(section, server.key_variable)
    except UserError as error:
        problems.found += error.problems
    if not 0 < server.request_timeout <= server.deadline:
        problems.add(
            f"{section}.request_timeout: {server.request_timeout:g} s found, expected more than "
            f"0 and at most {section}.deadline, {server.deadline:g} s"
        )


def _check_writer(role: str, config: EvaluateConfig | DemoConfig, problems: Problems) -> None:
    """A model that writes completions: it must be there, and have room for them."""
    folder = {"teacher": config.model.teacher, "backbone": config.model.backbone}[role]
    check_model_folder(f"model.{role}", folder, problems)
    limit, prompt = config.model.max_completion_tokens, config.prompts.max_prompt_tokens
    problems.found += check_room("model.max_completion_tokens", limit, prompt, folder)


def _check_teacher(config: SynthesizeConfig, problems: Problems) -> None:
    """The teacher can be asked, and answers with samples."""
    teacher = config.teacher
    # The student's prompts are measured with its own tokenizer.
    check_model_folder("model.backbone", config.model.backbone, problems, weights=False)
    if isinstance(teacher, LocalTeacherSettings) and teacher.temperature == 0:
        problems.add("teacher.temperature: 0 found, expected more than 0: candidates are samples")
    serve = "serve the teacher (make serve-teacher) and choose TEACHER=server"
    _check_text_writer("teacher", teacher, serve, config, problems)


def _check_text_writer(
    section: str,
    settings: AnyLanguageModelSettings,
    serve: str,
    config: SynthesizeConfig | EvaluateConfig | DemoConfig,
    problems: Problems,
) -> None:
    """A model is there, or its server's address is one; and it has room for its answers."""
    if isinstance(settings, ServerLanguageModelSettings):
        server, key = settings.server, f"{section}.server"
        check_model_folder(f"{section}.tokenizer", settings.tokenizer, problems, weights=False)
        _check_addresses(key, {"urls": server.urls}, server, problems)
        if not server.urls:
            problems.add(f"{key}.urls: found none, expected [http://127.0.0.1:8002/v1]")
        return
    if isinstance(settings, VllmLanguageModelSettings) and find_spec("vllm") is None:
        problems.add(
            f"{section}.name: vllm found, but vLLM isn't installed here; install the gpu extra, or "
            f"{serve}"
        )
    # By the keys that other recipes have, too: the commands of later stages can set those alone.
    model, limit = config.model, settings.max_new_tokens
    key = "model.teacher" if settings.model == model.teacher else f"{section}.model"
    check_model_folder(key, settings.model, problems)
    key = f"{section}.max_new_tokens"
    if limit == model.max_completion_tokens:
        key = "model.max_completion_tokens"
    problems.found += check_room(key, limit, config.prompts.max_prompt_tokens, settings.model)


def _check_language_model(config: EvaluateConfig, problems: Problems) -> None:
    """The model that methods prompt can be asked, where there are such methods."""
    asking = [name for name in config.evaluation.methods or () if name in PROMPTING]
    settings = config.language_model
    if not asking:
        return
    if isinstance(settings, NoLanguageModelSettings):
        problems.add(
            f"language_model: none found, but evaluation.methods has {', '.join(asking)}; choose "
            "language_model=local, vllm or server, or leave these methods out"
        )
        return
    serve = "serve the model and choose language_model=server"
    _check_text_writer("language_model", settings, serve, config, problems)


def _check_verification(config: SynthesizeConfig, problems: Problems) -> None:
    """The models that verify are there, and the reward is 0 or 1."""
    settings = config.verification
    _check_reward_models("verification", settings, config.judge, 1, problems)
    if isinstance(settings, JudgedRewardSettings) and settings.score != "win":
        problems.add(
            f"verification.score: {settings.score} found, expected win: only what has reward 1 is "
            "kept"
        )
    if not settings.shaping.is_off:
        problems.add(
            "verification.shaping: found on, expected off: only what has reward 1 is kept; "
            "synthesis.keep=shortest prefers short completions"
        )


def _check_nothing_is_asked(config: SynthesizeConfig, problems: Problems) -> None:
    """Published examples are handed on as they are."""
    for key in ("limit", "budget", "push_to_hub"):
        if (found := getattr(config.synthesis, key)) is not None:
            problems.add(
                f"synthesis.{key}: {found} found, expected null with data=release, whose examples "
                "were written, verified and published by others"
            )


def _check_bounded_answers(teacher: ServerTeacherSettings, problems: Problems) -> None:
    """With a budget, an answer may be no longer than what is reserved for it."""
    limits = {"max_tokens": teacher.max_new_tokens, **teacher.body}
    longest = limits["max_tokens"] or limits.get("max_completion_tokens")
    if longest != teacher.max_new_tokens:
        problems.add(
            f"teacher.body: it lets an answer have {longest or 'any number of'} tokens, expected "
            f"teacher.max_new_tokens, {teacher.max_new_tokens}, for synthesis.budget to hold; "
            f"+teacher.body.max_completion_tokens={teacher.max_new_tokens} takes the place of a "
            "max_tokens that is null"
        )


def _check_synthesis(config: SynthesizeConfig, problems: Problems) -> None:
    asked, prices = config.synthesis, config.teacher.prices
    if (prices.prompt is None) != (prices.completion is None):
        problems.add(
            f"teacher.prices: prompt={prices.prompt}, completion={prices.completion} found, "
            "expected both or neither"
        )
    if asked.budget == 0:
        problems.add("synthesis.budget: 0.0 found, expected more, or null for no limit")
    if asked.budget is not None and isinstance(config.teacher, ServerTeacherSettings):
        _check_bounded_answers(config.teacher, problems)
    if asked.budget is not None and prices.prompt is None:
        problems.add(
            f"synthesis.budget: {asked.budget:g} found, but what tokens cost is not known; give "
            "teacher.prices.prompt and teacher.prices.completion, per million tokens"
        )
    if asked.mix is not None:
        is_mixture = all(0 <= share < math.inf for share in asked.mix) and any(asked.mix)
        if len(asked.mix) != config.setting.rounds or not is_mixture:
            problems.add(
                f"synthesis.mix: {asked.mix} found, expected {config.setting.rounds} numbers, one "
                "for each round, not below 0 and not all 0"
            )
    if asked.push_to_hub is not None:
        # Imported here: only who pushes needs the Hub's client.
        from alignxplore_trl.launch.hub import check_hub

        problems.found += check_hub("synthesis.push_to_hub", asked.push_to_hub)


def _check_setting(config: PrepareConfig, problems: Problems) -> None:
    setting = config.setting
    if setting.name == "base" and setting.rounds != 1:
        problems.add(
            f"setting.rounds: {setting.rounds} found, expected 1 in the base setting; "
            "more rounds are setting=streaming"
        )
    if setting.name == "streaming" and setting.rounds < 2:
        problems.add(
            f"setting.rounds: {setting.rounds} found, expected 2 or more in the streaming "
            "setting; one round is setting=base"
        )
    if setting.signals < 1:
        problems.add(f"setting.signals: {setting.signals} found, expected 1 or more")
    needed = setting.rounds * setting.signals
    if config.data.signals_per_user < needed:
        problems.add(
            f"data.signals_per_user: {config.data.signals_per_user} found, expected at least "
            f"{setting.rounds} rounds x {setting.signals} signals = {needed}"
        )


# What sources hold that can't be split into all sets.
_SETS_OF: Mapping[str, tuple[Split, ...]] = {
    "release": ("cold_start", "rl", "test"),
    "psoups": ("test",),
}


def _check_data(data: AnyData, seed: int, problems: Problems) -> None:
    for split, count in data.counts.items():
        if count < 1:
            problems.add(f"data.counts.{split}: {count} found, expected 1 or more")
    for split in sorted(data.counts.keys() - _SETS_OF.get(data.name, data.counts.keys())):
        problems.add(
            f"data.counts.{split}: found, but data={data.name} has no such set; expected no others "
            f"than {', '.join(_SETS_OF[data.name])}"
        )
    match data:
        case WorldData():
            _check_world(data, seed, problems)
        case AlignxData():
            if data.path is None or data.path == "???" or not _is_source(data.path):
                problems.add(
                    f"data.path: found {data.path!r}, expected the file of alignx's rows, a folder "
                    "of such files, or owner/name on the Hub: make … DATA_PATH=<path>, or "
                    "data.path=<path>"
                )
            if not 0 < data.same_post_similarity <= 1:
                problems.add(
                    f"data.same_post_similarity: {data.same_post_similarity:g} found, expected "
                    "more than 0 and at most 1"
                )
        case ReleaseData():
            if not Path(str(data.path)).is_dir():
                problems.add(
                    f"data.path: found {data.path!r}, expected the folder of the published files: "
                    "make … DATA_PATH=<folder>, or data.path=<folder>"
                )
        case PsoupsData() | MappingData():
            path, may_be_folder = Path(str(data.path)), isinstance(data, PsoupsData)
            if not path.is_file() and not (may_be_folder and path.is_dir()):
                problems.add(
                    f"data.path: found {data.path!r}, expected the file of {data.name}'s rows"
                    f"{' or a folder of such files' if may_be_folder else ''}: "
                    "make … DATA_PATH=<path>, or data.path=<path>"
                )


def _check_world(data: WorldData, seed: int, problems: Problems) -> None:
    if data.path is not None:
        problems.add(
            f"data.path: found {data.path!r}, expected none with data=world, which reads no "
            "file; for rows of your own add DATA=alignx"
        )
    world = World(seed, data.dimensions_per_user, data.signals_per_user, data.signal_kind)
    for problem in check_world(world):
        problems.add(problem)


def _is_source(path: str) -> bool:
    """Whether rows may be there: a file, a folder, or what reads as a name on the Hub."""
    if Path(path).exists():
        return True
    is_relative = not path.startswith((".", "~")) and not Path(path).is_absolute()
    return is_relative and path.count("/") == 1 and "." not in Path(path).name


def _check_splits(config: PrepareConfig, problems: Problems) -> None:
    """A stage needs a split that its source has; of the published files, it needs its own."""
    data, setting = config.data, config.setting
    match config:
        case SynthesizeConfig():
            split = "cold_start"
        case RLConfig() | VplConfig():
            split = "rl"
        case EvaluateConfig():
            split = config.evaluation.split
        case JudgeReportConfig():
            split = config.report.split
        case InspectDataConfig():
            split = config.inspection.split
        case _:
            return
    if split == "test_posts":
        if not isinstance(data, AlignxData):
            problems.add(
                f"data: {data.name} found, which has no test_posts; choose one of its sets, "
                f"{', '.join(data.counts)}"
            )
    elif split not in data.counts:
        key = {"inspect_data": "inspection", "judge_report": "report"}.get(config.recipe)
        hint = f"{key}.split={next(iter(data.counts))}" if key else "another data"
        problems.add(
            f"data.counts: no {split} found, which {config.recipe} needs: data={data.name} has "
            f"{', '.join(data.counts)}; choose {hint}"
        )
    elif isinstance(data, ReleaseData):
        if setting.signals != SIGNALS_IN_PROMPT and not isinstance(config, EvaluateConfig):
            problems.add(
                f"setting.signals: {setting.signals} found, expected {SIGNALS_IN_PROMPT}: that "
                "many stand in a published prompt, which is used as it is"
            )
        files = {
            "cold_start": COLD_START_FILE[setting.name],
            "rl": RL_FILE[setting.name],
            "test": TEST_FILE,
        }
        file = files.get(split)
        if file and Path(str(data.path)).is_dir() and not (Path(str(data.path)) / file).is_file():
            problems.add(
                f"data.path: {data.path} has no {file}, which {config.recipe} with "
                f"setting={setting.name} reads; put it there"
            )


def _check_no_trl_evaluation(trainer: dict[str, Any], problems: Problems) -> None:
    strategy = trainer.get("eval_strategy", "no")
    if strategy != "no":
        problems.add(
            f"trainer.eval_strategy: {strategy!r} found, expected 'no': checkpoints are scored by "
            "`make evaluate`, not inside TRL's loop"
        )


def _steps_per_generation(config: RLConfig) -> int:
    trainer = config.trainer
    size = trainer.get("generation_batch_size")
    if size is not None:
        per_step = trainer["per_device_train_batch_size"] * config.launch.num_processes
        return max(1, int(size) // int(per_step))
    return int(trainer.get("steps_per_generation") or trainer["gradient_accumulation_steps"])


def _check_generation_batch(config: RLConfig, problems: Problems) -> None:
    trainer, processes = config.trainer, config.launch.num_processes
    batch, group = generation_batch_size(config), trainer["num_generations"]
    steps = _steps_per_generation(config)
    if batch % group:
        problems.add(
            f"trainer.num_generations: {trainer['per_device_train_batch_size']} completions x "
            f"{processes} processes x {steps} steps_per_generation = {batch} completions at once, "
            f"which is not a multiple of {group} rollouts per prompt"
        )
    accumulated, iterations = trainer["gradient_accumulation_steps"], trainer["num_iterations"]
    trained_on = steps * iterations
    if accumulated % trained_on and trained_on % accumulated:
        problems.add(
            f"trainer.gradient_accumulation_steps: {accumulated} found, expected a divisor or a "
            f"multiple of steps_per_generation {steps} x num_iterations {iterations} = "
            f"{trained_on}: a later epoch's steps would end inside a generation batch"
        )
    micro_steps = trainer["save_steps"] * trainer["gradient_accumulation_steps"]
    if trainer.get("save_strategy", "steps") == "steps" and micro_steps % trained_on:
        problems.add(
            f"trainer.save_steps: {trainer['save_steps']} x gradient_accumulation_steps "
            f"{trainer['gradient_accumulation_steps']} = {micro_steps}, which is not a multiple of "
            f"steps_per_generation {steps} x num_iterations {iterations}: a checkpoint inside a "
            "generation batch can't be resumed"
        )
    if config.setting.name == "streaming" and trainer["num_iterations"] > 1:
        problems.add(
            f"trainer.num_iterations: {trainer['num_iterations']} found, expected 1 in the "
            "streaming setting: a round is trained on once, then its descriptions are drawn"
        )


def _check_credit(config: RLConfig, problems: Problems) -> None:
    problems.found += credit_problems(
        config.round_credit,
        config.setting.rounds,
        _steps_per_generation(config),
        config.trainer["gradient_accumulation_steps"],
    )
    if config.round_credit and getattr(config.reward, "score", None) == "margin":
        problems.add(
            "reward.score: margin found, expected win or probability with round_credit: credit "
            "below 0 would put well-formed completions below malformed ones"
        )


def _check_sizes(config: RLConfig, problems: Problems) -> None:
    """What can be told before there are data and a cold start; both are checked again then."""
    limit, prompt = config.trainer["max_completion_length"], config.prompts.max_prompt_tokens
    problems.found += check_room(
        "trainer.max_completion_length", limit, prompt, config.model.backbone
    )
    count = config.data.counts.get("rl", 0)
    if config.data.name == "world" and count > 0:
        problems.found += check_rows(config, count * config.setting.rounds)


def _check_vpl(config: VplConfig, problems: Problems) -> None:
    check_model_folder("model.backbone", config.model.backbone, problems)
    asked = config.vpl
    if asked.most_pairs < asked.fewest_pairs:
        problems.add(
            f"vpl.most_pairs: {asked.most_pairs} found, expected at least vpl.fewest_pairs, "
            f"{asked.fewest_pairs}"
        )
    if isinstance(config.data, ReleaseData):
        problems.add(
            "data: release found, whose prompts of training are whole texts; VPL is trained on "
            "pairs, such as those of DATA=alignx"
        )
    if getattr(config.data, "signal_kind", "comparisons") == "posts":
        problems.add(
            "data.signal_kind: posts found, expected comparisons or mixed: VPL is trained on pairs"
        )


def _check_evaluation(config: EvaluateConfig, problems: Problems) -> None:
    asked = config.evaluation
    _check_judge(config.judge, 1, problems)
    if not (isinstance(config.judge, SampledJudgeSettings) and config.judge.server.test_urls):
        test_model = config.judge.test_model
        served = is_served(test_model, config.judge)
        check_model_folder("judge.test_model", test_model, problems, weights=not served)
    for key, sources in (("judges", asked.judges), ("generators", asked.generators)):
        for source in sources:
            check_model_folder(f"evaluation.{key}", source, problems)
    if asked.win_rate.pairs:
        check_model_folder("evaluation.win_rate.writer", asked.win_rate.writer, problems)
        check_model_folder("evaluation.win_rate.judge", asked.win_rate.judge, problems)
    for method in ("backbone", "teacher"):
        if asked.methods is None or method in asked.methods:
            _check_writer(method, config, problems)
    if asked.engine is not None and find_spec("vllm") is None:
        problems.add(
            "evaluation.engine: found, but vLLM isn't installed here; install the gpu extra, or "
            "choose null"
        )
    _check_language_model(config, problems)
    check_what_is_evaluated(config, problems)


def _check_inspection(config: InspectDataConfig, problems: Problems) -> None:
    check_model_folder("model.backbone", config.model.backbone, problems, weights=False)
    asked = config.inspection
    if asked.html is not None and Path(asked.html).is_dir():
        problems.add(
            f"inspection.html: {asked.html} found, which is a folder; expected a file's name "
            "(HTML of make)"
        )
    elif asked.html is not None and not Path(asked.html).parent.is_dir():
        problems.add(
            f"inspection.html: found no folder {Path(asked.html).parent}, expected one that is "
            "there (HTML of make)"
        )


def describing_model(config: DemoConfig) -> str | None:
    """The trained model behind the demo: the one that is named, or else that of the latest RL run.

    `None` where no model has been trained.
    """
    latest = Path(config.paths.outputs, "rl", "latest", "model")
    return config.demo.model or (str(latest) if latest.is_dir() else None)


def _check_demo(config: DemoConfig, problems: Problems) -> None:
    if find_spec("gradio") is None:
        problems.add("demo: Gradio isn't installed here; install it: pip install -e '.[demo]'")
    if config.setting.signals < 1:
        problems.add(f"setting.signals: {config.setting.signals} found, expected 1 or more")
    _check_pairs(config, problems)
    _check_describer(config, problems)
    serve = "serve the model and choose language_model=server"
    _check_text_writer("language_model", config.language_model, serve, config, problems)
    if config.demo.candidates > 1:
        _check_judge(config.judge, 1, problems)
    if config.demo.candidates > 1 and config.language_model.temperature == 0:
        problems.add(
            f"demo.candidates: {config.demo.candidates} found, expected 1 with "
            "language_model.temperature=0, at which all candidates are the same"
        )


def _check_pairs(config: DemoConfig, problems: Problems) -> None:
    """There is something to choose from."""
    pairs, data = config.demo.pairs, config.data
    if data.path is not None:
        problems.add(
            f"data.path: found {data.path!r}, expected none: the demo reads no data set; give the "
            "file of comparisons as demo.pairs=<file>"
        )
    if pairs is not None:
        if not Path(pairs).is_file():
            problems.add(f"demo.pairs: found no file {pairs}, expected one of comparisons")
    elif not isinstance(data, WorldData):
        problems.add(
            f"demo.pairs: found none with data={data.name}, expected a file of comparisons to "
            "choose from (post, chosen, rejected): demo.pairs=<file>"
        )
    else:
        _check_data(data, config.seed, problems)
        if data.signal_kind == "posts" or "test" not in data.counts:
            problems.add(
                "data: the world's test users have compared nothing (data.signal_kind, "
                "data.counts.test); give demo.pairs=<file>"
            )


def _check_describer(config: DemoConfig, problems: Problems) -> None:
    """The model that describes is there, and its servers' addresses are addresses."""
    model, server = describing_model(config), config.demo.server
    if model is not None:
        check_model_folder("demo.model", model, problems, weights=not server.urls)
    else:
        _check_writer("teacher", config, problems)
    if not server.urls:
        return
    if model is None:
        problems.add(
            "demo.model: found none with demo.server.urls, expected the model that is served, for "
            "its prompts and its tokenizer (MODEL of make)"
        )
    from alignxplore_trl.judging.client import address_problems, read_key

    problems.found += address_problems("demo.server", "urls", server.urls)
    try:
        read_key("demo.server", server.key_variable)
    except UserError as error:
        problems.found += error.problems

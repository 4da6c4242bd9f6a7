"""What recipes are given: the resolved configuration as frozen dataclasses, strictly checked.

The defaults stand in conf/ alone; here are the names and the types.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar

from alignxplore_trl.data.columns import AnyColumns
from alignxplore_trl.data.world import RefinedSplit, SignalKind, Split
from alignxplore_trl.launch.compose import did_you_mean
from alignxplore_trl.rewards.shaping import Shaping
from alignxplore_trl.run.errors import Problems

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """The size of everything: a name, and the Hydra choices in conf/scale/.

    The tokenizer is the backbone's, for measuring texts where no model is chosen; `reply_tokens` is
    the longest reply that is written for a win rate.
    """

    name: str
    tokenizer: str
    reply_tokens: int


@dataclass(frozen=True)
class Setting:
    """How signals are read: all at once, or in rounds."""

    name: Literal["base", "streaming"]
    rounds: int
    signals: int


@dataclass(frozen=True)
class Data:
    """Where users come from: what every source has.

    A split that `counts` doesn't name has no cases.
    """

    path: str | None
    signals_per_user: int
    counts: dict[Split, int]


@dataclass(frozen=True)
class WorldData(Data):
    """The simulated world."""

    name: Literal["world"]
    dimensions_per_user: int
    signal_kind: SignalKind


@dataclass(frozen=True)
class RowsData(Data):
    """What every source of rows has."""

    anonymise: bool
    tokenizer: str | None


@dataclass(frozen=True)
class PostsTest:
    """The test set of users whose history is what they wrote."""

    users: int
    signals: int


@dataclass(frozen=True)
class AlignxData(RowsData):
    """Rows in the shape of ALIGNX, and how they are refined."""

    name: Literal["alignx"]
    signal_kind: SignalKind
    dimensions: list[dict[str, str]]
    refine: bool | None
    minimum_dimensions: int
    same_post_similarity: float
    test_posts: PostsTest
    strict: bool | None
    workers: int | None


@dataclass(frozen=True)
class ReleaseData(RowsData):
    """The published files."""

    name: Literal["release"]
    dimensions: list[dict[str, str]]


@dataclass(frozen=True)
class PsoupsData(RowsData):
    """P-SOUPS."""

    name: Literal["psoups"]
    reverse: bool


@dataclass(frozen=True)
class MappingData(RowsData):
    """Any file of people's choices, read by a mapping."""

    name: Literal["mapping"]
    cases_per_user: int
    mapping: AnyColumns


AnyRows = AlignxData | ReleaseData | PsoupsData | MappingData
AnyData = WorldData | AnyRows


@dataclass(frozen=True)
class Model:
    """The models: folders, or names on the Hub."""

    backbone: str
    teacher: str
    judge: str
    test_judge: str
    judge_name: str
    test_judge_name: str
    dtype: Literal["float32", "bfloat16", "float16"]
    attn_implementation: str
    max_completion_tokens: int
    generation_batch_size: int
    chat: bool
    judge_answer_tokens: int
    judge_answer_start: str
    judge_answer_end: str


@dataclass(frozen=True)
class Prompts:
    """The set of templates, and the budget of a prompt."""

    folder: str
    max_prompt_tokens: int


@dataclass(frozen=True)
class JudgeSettings:
    """What every judge has: its models, and how it is asked."""

    model: str
    test_model: str
    dtype: Literal["float32", "bfloat16", "float16"]
    chat: bool
    order: Literal["random", "both"]
    max_batch_tokens: int
    minimum_label_mass: float


@dataclass(frozen=True)
class LocalJudgeSettings(JudgeSettings):
    """A judge in this process, read at the letter of its answer."""

    name: Literal["local"]
    layout: Literal["description_first", "description_last"]


@dataclass(frozen=True)
class JudgeServer:
    """Where judges are served, and how much is asked of them; without URLs they are loaded here."""

    urls: list[str]
    test_urls: list[str]
    served_as: str
    test_served_as: str
    key_variable: str | None
    concurrency: int
    request_timeout: float
    deadline: float


@dataclass(frozen=True)
class ServerJudgeSettings(JudgeSettings):
    """A judge behind an OpenAI-compatible server, read at the letter of its answer."""

    name: Literal["server"]
    layout: Literal["description_first", "description_last"]
    letters: Literal["token_ids", "top_logprobs"]
    scoring_concurrency: int
    scoring_tokens: int
    server: JudgeServer


@dataclass(frozen=True)
class SampledJudgeSettings(JudgeSettings):
    """A judge that writes its answers, in this process or on a server."""

    name: Literal["sampled"]
    samples: int
    temperature: float
    max_new_tokens: int
    answer_start: str
    answer_end: str
    server: JudgeServer


@dataclass(frozen=True)
class Outage:
    """When a batch counts as not judged, and what is done then."""

    share: float
    action: Literal["wait", "abort"]
    pause_seconds: float
    limit_seconds: float


@dataclass(frozen=True)
class RewardSettings:
    """What every reward has."""

    shaping: Shaping
    outage: Outage


@dataclass(frozen=True)
class JudgedRewardSettings(RewardSettings):
    """R_jud."""

    name: Literal["judged"]
    score: Literal["win", "probability", "margin"]
    panel: list[str]
    agreement: Literal["mean", "all"]


@dataclass(frozen=True)
class GeneratorRewardSettings(RewardSettings):
    """What rewards have that ask a generator how probable the replies are."""

    generator: str
    max_batch_tokens: int
    margin: float


@dataclass(frozen=True)
class GeneratedRewardSettings(GeneratorRewardSettings):
    """R_gen."""

    name: Literal["generated"]
    aggregation: Literal["sum", "mean", "mean_probability"]
    cache: str


@dataclass(frozen=True)
class LogProbabilityRewardSettings(GeneratorRewardSettings):
    """The raw log-probability reward."""

    name: Literal["log_probability"]
    aggregation: Literal["sum", "mean"]


@dataclass(frozen=True)
class Peft:
    """Adapters: `lora` holds the arguments of `peft.LoraConfig`, `None` trains all weights."""

    name: str
    lora: dict[str, Any] | None


@dataclass(frozen=True)
class Sampling:
    """How descriptions are sampled at inference; `top_k` is `None` for all tokens."""

    temperature: float
    top_p: float
    top_k: int | None


@dataclass(frozen=True)
class Output:
    """What becomes of the trained weights."""

    weights: Literal["merged", "adapters"]
    push_to_hub: str | None


@dataclass(frozen=True)
class Throughput:
    """What the measurement of a training's speed can't know."""

    peak_tflops: float | None
    judge_gpus: int
    price_per_gpu_hour: float | None


@dataclass(frozen=True)
class Tracking:
    """Where metrics go beside metrics.jsonl."""

    name: Literal["offline", "wandb", "none"]
    project: str
    group: str | None


@dataclass(frozen=True)
class Paths:
    """Directories."""

    outputs: str
    assets: str


@dataclass(frozen=True)
class Launch:
    """How many processes `accelerate launch` starts, and on what."""

    accelerate_config: str
    num_processes: int
    use_cpu: bool


CheckName = Literal[
    "versions",
    "models",
    "gpus",
    "memory",
    "batch",
    "lengths",
    "devices",
    "judge",
    "language_model",
    "disk",
    "tracking",
    "vllm",
]


@dataclass(frozen=True)
class Preflight:
    """What is looked at before a run starts."""

    skip: list[CheckName]
    measured: int
    asked_parameters: int


@dataclass(frozen=True)
class TokenPrices:
    """What a million tokens cost; `None` where it isn't known."""

    prompt: float | None
    completion: float | None


@dataclass(frozen=True)
class LanguageModelSettings:
    """What every model has that writes texts: which it is, and how it samples."""

    model: str
    chat: bool
    temperature: float
    top_p: float
    top_k: int | None
    max_new_tokens: int


@dataclass(frozen=True)
class LocalLanguageModelSettings(LanguageModelSettings):
    """A model in this process."""

    name: Literal["local"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: int


@dataclass(frozen=True)
class VllmLanguageModelSettings(LanguageModelSettings):
    """A model in vLLM in this process."""

    name: Literal["vllm"]
    engine: dict[str, Any]


@dataclass(frozen=True)
class LanguageModelServer:
    """Where a model is served, and how much is asked of it."""

    urls: list[str]
    served_as: str
    key_variable: str | None
    concurrency: int
    request_timeout: float
    deadline: float


@dataclass(frozen=True)
class ServerLanguageModelSettings(LanguageModelSettings):
    """A model behind an OpenAI-compatible endpoint."""

    name: Literal["server"]
    tokenizer: str
    body: dict[str, Any]
    server: LanguageModelServer


@dataclass(frozen=True)
class NoLanguageModelSettings:
    """No model: the methods that prompt one aren't tried."""

    name: Literal["none"]


AnyLanguageModelSettings = (
    LocalLanguageModelSettings | VllmLanguageModelSettings | ServerLanguageModelSettings
)


@dataclass(frozen=True)
class _Priced:
    prices: TokenPrices


@dataclass(frozen=True)
class LocalTeacherSettings(_Priced, LocalLanguageModelSettings):
    """A teacher in this process."""


@dataclass(frozen=True)
class VllmTeacherSettings(_Priced, VllmLanguageModelSettings):
    """A teacher in vLLM in this process."""

    batch_size: int


@dataclass(frozen=True)
class ServerTeacherSettings(_Priced, ServerLanguageModelSettings):
    """A teacher behind an OpenAI-compatible endpoint."""


@dataclass(frozen=True)
class Synthesis:
    """What the teacher is asked for, and what is kept of it."""

    candidates: int
    dimensions: Literal["known", "teacher", "none"]
    most_dimensions: int
    keep_per_prompt: int | None
    keep: Literal["first", "shortest", "highest_margin"]
    earlier: Literal["well_formed", "verified"]
    mix: list[float] | None
    limit: int | None
    budget: float | None
    cache: str
    push_to_hub: str | None


@dataclass(frozen=True)
class WinRate:
    """Which methods' replies are compared, who writes them, and who compares them."""

    pairs: list[str]
    cases: int | None
    writer: str
    judge: str
    max_new_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and how descriptions are sampled."""

    benchmarks: list[str] | None
    prepared: list[str]
    split: Literal["validation", "test"]
    cases: int | None
    methods: list[str] | None
    settings: list[str]
    differences: list[str]
    controls: list[str]
    judges: list[str]
    generators: list[str]
    generator_batch_tokens: int
    faithfulness: bool
    win_rate: WinRate
    order: Literal["random", "both"]
    temperature: float
    top_p: float
    top_k: int | None
    engine: dict[str, Any] | None
    batch_size: int
    cache: str


@dataclass(frozen=True)
class Vpl:
    """The size of VPL, and how it is trained."""

    hidden_size: int
    latent_size: int
    fewest_pairs: int
    most_pairs: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    kl_weight: float
    kl_cycle_steps: int
    kl_floor: float
    max_batch_tokens: int


@dataclass(frozen=True)
class Report:
    """What a judge is asked about before it is used."""

    split: Literal["validation", "rl", "cold_start"]
    cases: int | None
    bins: int


@dataclass(frozen=True)
class Page:
    """What the report of an evaluation shows."""

    reference: str
    methods: list[str] | None
    cases: int
    bins: int


@dataclass(frozen=True)
class Inspection:
    """Which cases are shown, and where."""

    split: RefinedSplit
    cases: int
    html: str | None


@dataclass(frozen=True)
class TinyShape:
    """Size of a small model; the head size is hidden_size / heads."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    context: int


@dataclass(frozen=True)
class TinySkill:
    """How well the writer of the inference documents reads signals."""

    finds: float
    reads: float
    formats: float


@dataclass(frozen=True)
class TinyStage:
    """A part of the training of a small model."""

    steps: int
    documents: dict[str, float]


@dataclass(frozen=True)
class TinyModel:
    """How one small model is made."""

    kind: Literal["judge", "policy"]
    ships: bool
    start: str | None
    seed: int
    learning_rate: float
    shape: TinyShape
    skill: TinySkill | None
    stages: list[TinyStage]


@dataclass(frozen=True)
class Serve:
    """A model on a vLLM server, and where it listens."""

    model: str
    name: str
    host: str
    port: int
    dtype: Literal["float32", "bfloat16", "float16"]
    max_model_len: int | None
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"]
    flags: list[Any]
    environment: dict[str, str]
    python: str | None
    start_timeout: int


@dataclass(frozen=True)
class DescribingServer:
    """Where the model that describes is served; without URLs it is loaded here."""

    urls: list[str]
    served_as: str | None
    key_variable: str | None


@dataclass(frozen=True)
class Demo:
    """Who describes, what is chosen from, and where the page is."""

    model: str | None
    server: DescribingServer
    pairs: str | None
    candidates: int
    deadline: float
    host: str
    port: int


@dataclass(frozen=True)
class StudyTraining:
    """What is trained for a variant: up to which stage, in which setting, with which overrides."""

    stage: Literal["cold_start", "rl"]
    setting: Literal["base", "streaming"]
    overrides: list[str]


@dataclass(frozen=True)
class StudyVariant:
    """One of the things a study compares, and the number it stands for on a curve over variants.

    Without a training, it is a method of the evaluation that needs none.
    """

    training: StudyTraining | None
    method: str
    settings: list[str]
    at: float | None


@dataclass(frozen=True)
class StudyEvaluation:
    """How all variants of a study are scored."""

    benchmarks: list[str]
    overrides: list[str]


StudyFigure = Literal[
    "acc_jud",
    "acc_gen",
    "precision",
    "recall",
    "contradictions",
    "well_formed",
    "completion_tokens",
    "description_tokens",
    "prompt_tokens",
    "dropped_signals",
    "seconds",
]


@dataclass(frozen=True)
class StudyRatio:
    """A figure of one place over the same figure of another; places are `variant/setting`."""

    figure: StudyFigure
    of: str
    to: str


@dataclass(frozen=True)
class Study:
    """A question that several trainings answer together."""

    name: str
    question: str
    variants: dict[str, StudyVariant]
    evaluation: StudyEvaluation
    figures: list[StudyFigure]
    curve: Literal["variants", "benchmarks", "settings"] | None
    orderings: list[list[str]]
    ratios: list[StudyRatio]


@dataclass(frozen=True)
class Sweep:
    """What is run at every point of a sweep, and what a point is worth."""

    recipe: Literal["cold_start", "rl"]
    metric: str
    direction: Literal["maximise", "minimise"]
    last_share: float
    evaluation: list[str]
    overrides: list[str]
    swept: list[str]
    launcher: list[str]
    sweeper: list[str]


@dataclass(frozen=True)
class RecipeConfig:
    """What every recipe has."""

    recipe: str
    seed: int
    run_name: str
    scale: Scale
    tracking: Tracking
    paths: Paths


@dataclass(frozen=True)
class PrepareConfig(RecipeConfig):
    """conf/prepare.yaml."""

    setting: Setting
    data: AnyData


@dataclass(frozen=True)
class _ModelRecipeConfig(PrepareConfig):
    model: Model
    prompts: Prompts
    judge: LocalJudgeSettings | ServerJudgeSettings | SampledJudgeSettings
    upstream: dict[str, str | None]


@dataclass(frozen=True)
class SynthesizeConfig(_ModelRecipeConfig):
    """conf/synthesize.yaml."""

    teacher: LocalTeacherSettings | VllmTeacherSettings | ServerTeacherSettings
    verification: JudgedRewardSettings | GeneratedRewardSettings
    synthesis: Synthesis
    preflight: Preflight


@dataclass(frozen=True)
class _TrainingConfig(_ModelRecipeConfig):
    trainer: dict[str, Any]
    peft: Peft
    launch: Launch
    sampling: Sampling
    output: Output
    throughput: Throughput
    preflight: Preflight


@dataclass(frozen=True)
class ColdStartConfig(_TrainingConfig):
    """conf/cold_start.yaml."""

    examples: Literal["verified", "unverified"]


@dataclass(frozen=True)
class RLConfig(_TrainingConfig):
    """conf/rl.yaml."""

    start: Literal["cold_start", "backbone"]
    round_credit: float
    reward: JudgedRewardSettings | GeneratedRewardSettings | LogProbabilityRewardSettings
    completions_every: int


@dataclass(frozen=True)
class VplConfig(_ModelRecipeConfig):
    """conf/vpl.yaml."""

    vpl: Vpl


@dataclass(frozen=True)
class EvaluateConfig(_ModelRecipeConfig):
    """conf/evaluate.yaml."""

    evaluation: Evaluation
    sampling: Sampling
    language_model: AnyLanguageModelSettings | NoLanguageModelSettings
    preflight: Preflight


@dataclass(frozen=True)
class JudgeReportConfig(_ModelRecipeConfig):
    """conf/judge_report.yaml."""

    report: Report


@dataclass(frozen=True)
class DemoConfig(RecipeConfig):
    """conf/demo.yaml."""

    setting: Setting
    data: AnyData
    model: Model
    prompts: Prompts
    judge: LocalJudgeSettings | ServerJudgeSettings | SampledJudgeSettings
    language_model: AnyLanguageModelSettings
    sampling: Sampling
    demo: Demo


@dataclass(frozen=True)
class ReportConfig(PrepareConfig):
    """conf/report.yaml."""

    model: Model
    prompts: Prompts
    judge: LocalJudgeSettings | ServerJudgeSettings | SampledJudgeSettings
    upstream: dict[str, str | list[str] | None]
    page: Page


@dataclass(frozen=True)
class InspectDataConfig(_ModelRecipeConfig):
    """conf/inspect_data.yaml."""

    inspection: Inspection


@dataclass(frozen=True)
class ResultsConfig(RecipeConfig):
    """conf/results.yaml."""

    seeds: list[int]
    methods: list[str]
    overrides: list[str]
    document: str


@dataclass(frozen=True)
class StudyConfig(RecipeConfig):
    """conf/study.yaml."""

    seeds: list[int]
    overrides: list[str]
    document: str | None
    study: Study


@dataclass(frozen=True)
class SweepConfig(RecipeConfig):
    """conf/sweep.yaml."""

    sweep: Sweep


@dataclass(frozen=True)
class TinyModelsConfig(RecipeConfig):
    """conf/tiny_models.yaml."""

    prompts: Prompts
    vocabulary: int
    batch_size: int
    validation_cases: int
    models: dict[str, TinyModel]


@dataclass(frozen=True)
class _ServeConfig(RecipeConfig):
    model: Model
    serve: Serve


@dataclass(frozen=True)
class ServeJudgeConfig(_ServeConfig):
    """conf/serve_judge.yaml."""


@dataclass(frozen=True)
class ServeTeacherConfig(_ServeConfig):
    """conf/serve_teacher.yaml."""


@dataclass(frozen=True)
class ServeRolloutsConfig(_ServeConfig):
    """conf/serve_rollouts.yaml."""


CONFIGS: Mapping[str, type[RecipeConfig]] = {
    "prepare": PrepareConfig,
    "synthesize": SynthesizeConfig,
    "cold_start": ColdStartConfig,
    "rl": RLConfig,
    "vpl": VplConfig,
    "evaluate": EvaluateConfig,
    "inspect_data": InspectDataConfig,
    "results": ResultsConfig,
    "study": StudyConfig,
    "sweep": SweepConfig,
    "tiny_models": TinyModelsConfig,
    "serve_judge": ServeJudgeConfig,
    "serve_teacher": ServeTeacherConfig,
    "serve_rollouts": ServeRolloutsConfig,
    "judge_report": JudgeReportConfig,
    "demo": DemoConfig,
    "report": ReportConfig,
}


def read_values(kind: type[T], values: Mapping[str, Any], problems: Problems) -> T | None:
    """Plain values as a dataclass, nested ones included.

    Adds a problem for each key that is unknown or missing and each value of a wrong type; with any
    of them there is nothing to return.
    """
    before = len(problems.found)
    result = _read(kind, values, "", problems)
    return result if len(problems.found) == before else None


def _read(kind: Any, value: Any, where: str, problems: Problems) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where, problems)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _read(_chosen(arguments, value), value, where, problems)
    if origin is list and isinstance(value, list):
        places = [f"{where}[{index}]" for index in range(len(value))]
        return [_read(arguments[0], *pair, problems) for pair in zip(value, places, strict=True)]
    if origin is dict and isinstance(value, dict):
        return {
            _read(arguments[0], key, where, problems): _read(
                arguments[1], item, f"{where}.{key}", problems
            )
            for key, item in value.items()
        }
    if kind is Any or (origin is Literal and value in arguments):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    hint = r", such as \"null\" for the word" if value is None and kind is str else ""
    problems.add(f"{where}: found {value!r}, expected {_type_in_words(kind)}{hint}")
    return value


def _chosen(kinds: tuple[Any, ...], value: Any) -> Any:
    """The kind of an optional value; of several, the dataclass whose `name` it has, or its list."""
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    name = value.get("name") if isinstance(value, Mapping) else None
    named = [kind for kind in kinds if is_dataclass(kind) and name in _names(kind)]
    lists = [kind for kind in kinds if typing.get_origin(kind) is list and isinstance(value, list)]
    return [*named, *lists, *kinds][0]


def _names(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(typing.get_type_hints(kind).get("name"))


def _read_dataclass(kind: Any, value: Any, where: str, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        problems.add(f"{where}: found {value!r}, expected keys and values")
        return None
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in names:
            problems.add(f"{prefix}{key}: no such key{did_you_mean(key, names)}")
    for name in names:
        if name not in value:
            problems.add(f"{prefix}{name}: found nothing, expected {_type_in_words(hints[name])}")
    known = [name for name in names if name in value]
    read = {name: _read(hints[name], value[name], f"{prefix}{name}", problems) for name in known}
    if len(read) != len(names):
        return None
    try:
        return kind(**read)
    except ValueError as error:  # What the dataclass itself refuses: `<field>: <what is wrong>`.
        problems.add(f"{prefix}{error}")
        return None


def _type_in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, str(kind).replace("typing.", ""))

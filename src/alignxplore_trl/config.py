"""The experiment: everything of conf/config.yaml that no `_target_` checks by its own signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from alignxplore_trl.run.errors import UserError, nearest

CONF = Path(__file__).resolve().parents[2] / "conf"
# Nodes in which any key may be set without a plus: pydantic or a dataclass checks them.
_OPEN = {name: OmegaConf.create({}, flags={"struct": False}) for name in ("cold_start", "rl")}
_OPEN["evaluation"] = OmegaConf.create(
    {name: OmegaConf.create({}, flags={"struct": False}) for name in ("methods", "policies")}
)
ConfigStore.instance().store(name="open", node=OmegaConf.create(_OPEN))


def _target(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
        raise ValueError("expected the name of a class or function as `_target_`")
    return value


def _run_name(name: str) -> str:
    if not name.isprintable() or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"{name!r} found, expected the name of a folder below paths.outputs")
    return name


# What hydra.utils.instantiate makes an object from. Its keys are those of the class.
Target = Annotated[dict[str, Any], BeforeValidator(_target)]


class Section(BaseModel):
    """Frozen, and without keys that it doesn't know; conf/ says what those of each section mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(Section):
    """What is read of a user: `rounds` readings of `signals` signals each."""

    name: Literal["base", "streaming"]
    rounds: int = Field(ge=1)
    signals: int = Field(ge=1)

    @model_validator(mode="after")
    def _rounds_of_base(self) -> Setting:
        if (self.name == "base") != (self.rounds == 1):
            raise ValueError(
                f"{self.name} with {self.rounds} round(s) found, expected base with exactly one, "
                "or streaming with two or more"
            )
        return self


class Model(Section):
    backbone: str
    teacher: str
    judge: str
    test_judge: str
    dtype: Literal["float32", "bfloat16", "float16"]
    attn_implementation: str
    quantization: Target | None = None
    chat: bool
    max_completion_tokens: int = Field(ge=1)
    generation_batch_size: int = Field(ge=1)
    reply_tokens: int = Field(ge=1)


class Prompts(Section):
    folder: str
    max_tokens: int = Field(ge=1)


class Synthesis(TypedDict):
    __pydantic_config__ = Section.model_config  # type: ignore[misc]
    candidates: Annotated[int, Field(ge=1)]
    dimensions: Literal["known", "teacher", "none"]
    cases: Annotated[int, Field(ge=1)] | None
    verification: Target


class WinRate(TypedDict):
    __pydantic_config__ = Section.model_config  # type: ignore[misc]
    pairs: list[str]
    cases: int | None
    writer: Target


class Evaluation(TypedDict):
    __pydantic_config__ = Section.model_config  # type: ignore[misc]
    benchmarks: list[str]
    prepared: dict[str, str]
    cases: Annotated[int, Field(ge=1)] | None
    settings: list[str]
    methods: dict[str, Target]
    # Keys of summary.json are made of their names.
    policies: dict[Annotated[str, Field(pattern=r"^[\w.]+$")], str]
    writer: Target
    generators: dict[str, Target]
    differences: list[str]
    win_rate: WinRate


class Inspection(TypedDict):
    split: str
    cases: Annotated[int, Field(ge=1)]
    html: str | None


class Demo(TypedDict):
    model: str | None
    host: str
    port: Annotated[int, Field(ge=0)]


class Sweep(Section):
    targets: list[str] = Field(min_length=1)
    metric: str = Field(pattern=r"^\w+/.+$")
    direction: Literal["maximize", "minimize"]
    swept: tuple[str, ...] = ()


class Study(Section):
    question: str
    targets: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    overrides: list[str]
    variants: dict[str, list[str]] = Field(min_length=1)
    methods: list[str]
    figures: list[str]
    pairs: list[tuple[str, str]]


class Output(Section):
    weights: Literal["merged", "adapters"]
    push_to_hub: str | None = Field(pattern=r"^[\w.-]+/[\w.-]+$")


class Tracking(Section):
    mode: Literal["offline", "online", "none"]
    project: str
    group: str | None


class Experiment(Section):
    """A whole experiment; every stage is given the same one and reads what concerns it."""

    run: Annotated[str, AfterValidator(_run_name)]
    upstream: str | None
    seed: int = Field(ge=0)
    scale: str
    setting: Setting
    model: Model
    prompts: Prompts
    data: Target
    judge: Target
    test_judges: dict[str, Target]
    generator: Target
    reward: Target
    teacher: Target
    synthesis: Synthesis
    cold_start: dict[str, Any]
    rl: dict[str, Any]
    peft: dict[str, Any] | None
    evaluation: Evaluation
    vpl: Target
    output: Output
    tracking: Tracking
    paths: dict[str, str]
    inspection: Inspection
    report: dict[str, Annotated[int, Field(ge=0)]]
    demo: Demo
    make: list[str]
    sweep: Sweep
    study: Study | None = None


def checked(values: Mapping[str, Any]) -> Experiment:
    """The composed values as an experiment.

    Raises:
        UserError: one line for each key that is unknown, missing or can't be.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError([_in_words(dict(each)) for each in error.errors()]) from error


def _in_words(problem: Mapping[str, Any]) -> str:
    key, kind = ".".join(map(str, problem["loc"])), problem["type"]
    if kind == "extra_forbidden":
        return f"{key}: no such key"
    if kind in ("missing", "value_error"):
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{key}: {problem['input']!r:.120} found: {problem['msg']}"


def plain(composed: DictConfig) -> dict[str, Any]:
    """The composed configuration as Python's own values, every reference resolved.

    Raises:
        UserError: a value is missing, or a reference leads nowhere.
    """
    try:
        return dict(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = str(error.full_key or "configuration")
        advice = "; give DATA_PATH=<file, folder or owner/name>" if key == "data.path" else ""
        raise UserError(f"{key}: {str(error).splitlines()[0]}{advice}") from error


def compose(overrides: Sequence[str]) -> DictConfig:
    """conf/config.yaml with overrides, for a process that Hydra didn't start.

    Raises:
        UserError: see `hydra_in_words`.
    """
    with hydra_in_words(), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    return composed


@contextmanager
def hydra_in_words() -> Iterator[None]:
    """Turn what Hydra says of a command line into a `UserError`, with the nearest name.

    Raises:
        UserError: a key or a choice isn't there, or a word isn't an override.
    """
    try:
        yield
    except HydraException as error:
        cause = error.__cause__
        if isinstance(error, MissingConfigException):
            group, _, choice = str(error.missing_cfg_file).rpartition("/")
            there = error.options or sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            said = f"{group}={choice}: no such choice; there are {', '.join(there)}"
            raise UserError(said + nearest(choice, there)) from error
        if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
            groups = [each.name for each in CONF.iterdir()]
            hint = nearest(cause.key, [*cause.parent_node, *groups])
            if cause.full_key == "data.path":
                hint = ": this source reads no file; choose another one, such as DATA=alignx"
            raise UserError(f"{cause.full_key}: no such key{hint}") from error
        raise UserError(str(error)) from error

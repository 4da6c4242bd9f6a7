"""The way into a recipe: Hydra composes, the experiment is checked, the stage's folder is opened.

@recipe("rl")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    ...  # what it returns becomes the folder's summary.json

if __name__ == "__main__":
    main()
"""

from __future__ import annotations

import functools
import json
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alignxplore_trl.config import CONF, Experiment, checked, hydra_in_words, plain
from alignxplore_trl.preflight import TRAINERS, check_targets, split_target, trainer_fields
from alignxplore_trl.run.errors import UserError, is_main_process, user_errors_exit
from alignxplore_trl.run.folder import SOURCE, StageFolder, fingerprint
from alignxplore_trl.run.progress import say

T = TypeVar("T")
_FULL_ERROR = "HYDRA_FULL_ERROR"
Main = Callable[[Experiment, "Stage"], Mapping[str, object]]

# What each stage reads of the configuration, beside what the stages read that it reads: kept in its
# folder, and compared when the folder is used again.
_MODEL = ("model.backbone", "model.dtype", "model.quantization", "peft", "output.weights")
READS: Mapping[str, tuple[str, ...]] = {
    "data": ("seed", "data"),
    "synthesis": ("seed", "setting", "prompts", "teacher", "synthesis"),
    "cold_start": ("seed", "prompts", "cold_start", *_MODEL),
    "rl": ("seed", "setting", "prompts", "rl", "reward", *_MODEL),
    "vpl": ("seed", "setting", "prompts", "model.backbone", "model.dtype", "vpl"),
    "evaluation": ("seed", "data", "prompts"),
    "judge_report": ("seed", "data"),
    "report": ("seed",),
    "study": ("study",),
}
# The stages whose folders a stage reads, and the make target that makes each.
AFTER: Mapping[str, tuple[str, ...]] = {
    "synthesis": ("data",), "cold_start": ("synthesis",), "rl": ("data", "cold_start"),
    "vpl": ("data",),
}  # fmt: skip
TARGETS = {"synthesis": "synthesize", "cold_start": "cold-start", "judge_report": "judge-report"}
# Recipes that aren't in READS have no folder. These are called again when they are finished, and
# add what is asked for and isn't there.
ADDITIVE = ("evaluation", "report", "judge_report", "study")


class Stage:
    """What a recipe works with: its folder, those of the stages before it, and its objects."""

    def __init__(self, name: str, experiment: Experiment, values: Mapping[str, Any]) -> None:
        self.name = name
        self.experiment = experiment
        self.values = values
        self._made: dict[str, object] = {}
        self._run = Path(experiment.paths["outputs"]) / experiment.run
        self.folder = StageFolder(self._run / name)

    def sections(self, name: str | None = None) -> dict[str, Any]:
        """What a stage (this one by default) reads of the configuration, with all before it."""
        name = name or self.name
        kept: dict[str, Any] = {}
        for before in AFTER.get(name, ()):
            if not (before == "cold_start" and self.experiment.rl.get("start") == "backbone"):
                kept |= self.sections(before)
        source = self.value("data.path")
        if "data" in READS[name] and source:
            rows = fingerprint(str(source), self._run / "source.json")
            kept |= {SOURCE: rows} if rows else {}
        return kept | {key: self.value(key) for key in READS[name]}

    def find(self, name: str) -> Path | None:
        """The folder of another stage, of this run or else of `upstream`; `None` if there is none.

        Raises:
            UserError: it was made with other values.
        """
        for folder in (StageFolder(self._run / name), self.upstream(name)):
            if folder is not None and folder.finished:
                _refuse(folder, folder.differences(self.sections(name)))
                return folder.path
        return None

    def read(self, name: str) -> Path:
        """`find`, for what a stage can't do without.

        Raises:
            UserError: it isn't there, or was made with other values.
        """
        found = self.find(name)
        if found is None:
            upstream = f" or {folder.path}" if (folder := self.upstream(name)) else ""
            raise UserError(
                f"{self.name}: found nothing finished in {self._run / name}{upstream}; "
                f"`make {TARGETS.get(name, name)}` makes it, FROM=<run> reads another run's"
            )
        return found

    def upstream(self, name: str) -> StageFolder | None:
        """The folder of a stage in the run that `upstream` names, if it names one."""
        if self.experiment.upstream is None:
            return None
        return StageFolder(Path(self.experiment.paths["outputs"], self.experiment.upstream, name))

    def build(self, spec: str | Mapping[str, Any]) -> Any:
        """The object that a section describes; the same description twice is the same object.

        Args:
            spec: a key of the configuration, such as `reward` or `synthesis.verification`, or a
                mapping with `_target_`.

        Raises:
            UserError: the class refuses a setting.
        """
        if isinstance(spec, str):
            return self._make(self.value(spec), spec)
        return self._make(spec, str(spec.get("_target_")))

    def arguments(self, kind: type[T], section: str) -> T:
        """A trainer's dataclass from its section and what the recipe sets.

        Raises:
            UserError: the dataclass refuses it, in its words.
        """
        from alignxplore_trl.run.tracking import set_up_tracking

        run, tracking = f"{self.experiment.run}/{self.name}", self.experiment.tracking
        where = tracking.mode, tracking.project, tracking.group, run, self.folder.path
        ours = {
            "output_dir": str(self.folder.checkpoints),
            "seed": self.experiment.seed,
            "report_to": set_up_tracking(*where) if self.name in READS else [],
            "use_cpu": _on_cpu(),
            "disable_tqdm": not sys.stderr.isatty(),
        }
        try:
            return kind(**trainer_fields(kind, section, self.value(section)), **ours)
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"{section}: {error}") from error

    def value(self, key: str) -> Any:
        """What the configuration says at a key; `None` where it says nothing."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _make(self, value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [self._make(each, f"{key}.{i}") for i, each in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        made = {name: self._make(each, f"{key}.{name}") for name, each in value.items()}
        if "_target_" not in made:
            return made
        spec = json.dumps(value, sort_keys=True)
        if spec not in self._made:
            target, partial, arguments = split_target(made)
            if partial:
                target = functools.partial(target, **arguments)
            try:
                self._made[spec] = target if partial else target(**arguments)
            except ValueError as error:
                raise UserError(f"{key}: {error}") from error
        return self._made[spec]


def recipe(name: str) -> Callable[[Main], Callable[[], None]]:
    """Make `main(experiment, stage)` the command of a stage.

    The command composes conf/config.yaml with Hydra's overrides, refuses what can't be, leaves a
    finished stage alone, resumes an interrupted one, and writes what `main` returns as its summary.
    """

    def decorate(main: Main) -> Callable[[], None]:
        wanted = os.environ.get(_FULL_ERROR)

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
        @user_errors_exit()
        def run(composed: DictConfig) -> None:
            if wanted is None:
                del os.environ[_FULL_ERROR]
            _run(name, main, composed)

        @functools.wraps(main)
        @user_errors_exit()
        def command() -> None:
            if {"-m", "--multirun"} & set(sys.argv):
                raise UserError(
                    f"{name}: --multirun is for recipes/sweep.py, which starts each point anew"
                )
            # Hydra prints what it says of a command line, unless it is asked for all of it.
            os.environ[_FULL_ERROR] = "1"
            with hydra_in_words() if wanted is None else nullcontext():
                run()

        return command

    return decorate


def _run(name: str, main: Main, composed: DictConfig) -> None:
    values = plain(composed)
    stage = Stage(name, checked(values), values)
    # A stranger's YAML comes with its class: the folders of hydra.searchpath are on Python's, too.
    places = HydraConfig.get().runtime.config_sources
    sys.path += [place.path for place in places if place.provider.startswith("hydra.searchpath")]
    if name not in READS:
        check_targets(values)
        main(stage.experiment, stage)
        return
    if _rank_0_decides(lambda: _to_be_done(stage)):
        # A training comes after stages that bound everything, and imports no more than it needs.
        own = {key: stage.value(key) for key in READS[name]}
        check_targets(own if name in TRAINERS else values)

        def begin() -> None:
            held.enter_context(stage.folder.held())
            stage.folder.begin(stage.sections())

        with ExitStack() as held:
            _rank_0_decides(begin)
            stage.folder.finish(main(stage.experiment, stage))
    _publish(stage)
    _part()


def _publish(stage: Stage) -> None:
    """Put a finished stage's model on the Hub, where that is asked for."""
    repository = stage.experiment.output.push_to_hub
    if repository and is_main_process() and stage.folder.model.is_dir():
        from alignxplore_trl.reporting.model_card import publish

        publish(stage.folder, repository)


def _to_be_done(stage: Stage) -> bool:
    """Whether there is anything to do; says why not, or refuses a folder made otherwise."""
    name, own, sections = stage.name, stage.folder, stage.sections()
    if own.path.is_dir():
        if (own.finished or own.begun) and (differing := own.differences(sections)):
            check_targets(stage.values)  # A mistyped key differs, too.
            _refuse(own, differing)
        if own.finished and name not in ADDITIVE:
            say(f"{name}: {own.path} is finished; nothing to do")
            return False
        if own.begun and not own.finished:
            say(f"{name}: goes on from what is in {own.path}")
        return True
    upstream = stage.upstream(name)
    if upstream is None or not upstream.finished or name in ADDITIVE:
        return True
    if differing := upstream.differences(sections):
        say(f"{name}: made anew, since {upstream.path} has other values: {'; '.join(differing)}")
    else:
        say(f"{name}: {upstream.path} is finished, and used; nothing to do")
    return bool(differing)


def _refuse(folder: StageFolder, differing: Sequence[str]) -> None:
    if differing:
        advice = "name this run (RUN=<name>), give the same values, or delete that folder"
        raise UserError([f"{folder.path}: made with other values; {advice}", *differing])


def _part() -> None:
    """Leave the group of processes, all together; gloo would end a process that just stops."""
    if _are_several():
        from accelerate import PartialState

        PartialState().destroy_process_group()


def _are_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _on_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")


def _rank_0_decides(decide: Callable[[], T]) -> T:
    """What the first process decides about a folder, on all of them."""
    if not _are_several():
        return decide()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=_on_cpu())
    told: list[Any] = [None]
    if is_main_process():
        try:
            told = [decide()]
        except UserError as refused:
            told = [refused]
    broadcast_object_list(told)
    if isinstance(told[0], UserError):
        _part()
        raise told[0] if is_main_process() else SystemExit(2)
    return typing.cast(T, told[0])

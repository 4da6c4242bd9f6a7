"""Sweeps: a recipe at many points, each of which is a make command with overrides of its own.

Hydra's sweeper says which points are tried and its launcher where they run (`conf/launch/hydra`);
here is what a point is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.launch.compose import CONF, compose_recipe, did_you_mean, override_key
from alignxplore_trl.launch.config import SweepConfig
from alignxplore_trl.launch.runs import name_of_run, overrides_for, policy_name
from alignxplore_trl.launch.studies import ACCURACY_ONLY, StageCommand
from alignxplore_trl.run.errors import UserError

# Where the Hydra application's own configuration stands: beside no group of ours, so that a choice
# that isn't there is one point's mistake and not the application's.
HYDRA_CONF = CONF / "launch" / "hydra"
_OWN_KEYS = ("sweep", "scale", "seed", "run_name", "paths")
_LAUNCHER = ("hydra/launcher", "hydra.launcher")
_SWEEPER = ("hydra/sweeper", "hydra.sweeper")

# Columns of metrics.jsonl: some by their name, others by what stands before their first slash.
_COLUMNS = {
    "loss", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "grad_norm",
    "step_time", "learning_rate", "num_tokens", "mean_token_accuracy", "aux_loss", "policy_loss",
    "cispo_clip_ratio", "entropy_coef",
}  # fmt: skip
_FAMILIES = {
    "clip_ratio", "completions", "credit", "description", "earlier_description", "format", "judge",
    "reward", "rewards", "sampling", "throughput", "vespo",
}  # fmt: skip

Point = tuple[str, ...]


def sweep_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line of a sweep as overrides of conf/sweep.yaml.

    What isn't the sweep's own is told to the points (`sweep.overrides`) or, where it has several
    values, makes them (`sweep.swept`); what is Hydra's says where they run (`sweep.launcher`) and
    which are tried (`sweep.sweeper`).

    Raises:
        UserError: an override that Hydra can't read.
    """
    sorted_out: dict[str, list[str]] = {
        key: [] for key in ("overrides", "swept", "launcher", "sweeper")
    }
    own = []
    for argument in arguments:
        top = override_key(argument).split(".", 1)[0]
        if argument.startswith("-"):
            own.append(argument)
        elif _is_below(argument, _LAUNCHER):
            sorted_out["launcher"].append(argument)
        elif _is_below(argument, _SWEEPER):
            sorted_out["sweeper"].append(argument)
        elif parse_override(argument).is_sweep_override():
            sorted_out["swept"].append(argument)
        else:
            (own if top in _OWN_KEYS else sorted_out["overrides"]).append(argument)
    return own + [
        f"sweep.{key}=[{','.join(map(_quoted, overrides))}]"
        for key, overrides in sorted_out.items()
        if overrides
    ]


def parse_override(override: str) -> Override:
    """An override as Hydra reads it.

    Raises:
        UserError: it can't.
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(f"{override!r} is not a Hydra override: {error}") from error


def points_of(config: SweepConfig) -> list[Point]:
    """All points, in the order in which they are tried; none where the sweeper searches."""
    swept = [parse_override(override) for override in config.sweep.swept]
    if config.sweep.sweeper or not all(each.is_discrete_sweep() for each in swept):
        return []
    axes = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        for each in swept
    ]
    return list(itertools.product(*axes))


def hydra_arguments(config: SweepConfig, folder: str) -> list[str]:
    """The command line of the Hydra application; its points' logs and results go below `folder`.

    Two pluses stand before what is swept: to the application it is a new key.
    """
    swept = [f"++{override.lstrip('+')}" for override in config.sweep.swept]
    place = f"hydra.sweep.dir={_quoted(folder)}"
    return [place, *config.sweep.launcher, *config.sweep.sweeper, *swept]


def point_of(config: SweepConfig, hydra_overrides: Sequence[str]) -> Point:
    """The recipe's overrides of a job, from those of the Hydra application."""
    swept = {override_key(override): override for override in config.sweep.swept}
    plusses = {key: len(each) - len(each.lstrip("+")) for key, each in swept.items()}
    return tuple(
        "+" * plusses[override_key(override)] + override.lstrip("+") for override in hydra_overrides
    )


def training_command(config: SweepConfig, point: Point) -> StageCommand:
    """What trains a point, with all stages before it."""
    swept = {override_key(override) for override in point}
    shared = [
        f"scale={config.scale.name}",
        f"seed={config.seed}",
        f"paths.outputs={config.paths.outputs}",
        f"paths.assets={config.paths.assets}",
        # A sweep's runs are shown together.
        f"tracking.group={config.run_name}",
        *config.sweep.overrides,
    ]
    told = [override for override in shared if override_key(override) not in swept]
    return StageCommand(config.sweep.recipe, (*told, *point))


def policy_of(training: StageCommand) -> str:
    """What an evaluation calls the policy that a point trains, such as `rl_base4`."""
    return policy_name(training.recipe, compose_recipe(training.recipe, training.overrides))


def setting_of(training: StageCommand) -> Setting:
    """The setting that a point trains in."""
    setting = compose_recipe(training.recipe, training.overrides)["setting"]
    return Setting(setting["signals"], setting["rounds"])


def evaluation_command(config: SweepConfig, training: StageCommand) -> StageCommand:
    """What scores a point, on validation users: a choice that is made on test users spoils them."""
    policy = policy_of(training)
    overrides = (
        *overrides_for("evaluate", training.recipe, training.overrides),
        f"upstream.{policy}={training.run_name}",
        f'evaluation.methods=["{policy}"]',
        f"evaluation.settings=[{setting_of(training).name}]",
        *ACCURACY_ONLY,
        "evaluation.generators=[]",
        *config.sweep.evaluation,
        "evaluation.split=validation",
    )
    name = f"sweep-{name_of_run('evaluate', overrides)}"
    # Of its own: points may run on several machines, over which SQLite's log doesn't reach.
    kept = f"evaluation.cache={config.paths.outputs}/evaluate/{name}/answers.sqlite"
    return StageCommand("evaluate", (*overrides, kept, f"run_name={name}"))


def commands_of_point(config: SweepConfig, point: Point) -> list[StageCommand]:
    """The make commands of a point, in order.

    Raises:
        UserError: overrides that can't be composed.
    """
    training = training_command(config, point)
    if config.sweep.metric != "accuracy":
        return [training]
    return [training, evaluation_command(config, training)]


def metric_in_words(config: SweepConfig) -> str:
    """What the metric of a sweep is."""
    if config.sweep.metric == "accuracy":
        return "ACC_jud of validation users under the judge of training, with 95 % interval"
    return f"mean over the last {config.sweep.last_share:.0%} of the logged steps"


def is_metric(name: str) -> bool:
    """Whether a sweep can be about it; of a family, whether there is such a family."""
    family, slash, _ = name.partition("/")
    return name == "accuracy" or (family in _FAMILIES if slash else name in _COLUMNS)


def sweep_problems(config: SweepConfig) -> list[str]:
    """What can't be in a sweep at all, each as one problem with the key."""
    sweep = config.sweep
    problems = []
    swept = [parse_override(override) for override in sweep.swept]
    if not swept:
        problems.append(
            "sweep.swept: found no override with several values, expected one or more, such as "
            'ARGS="trainer.learning_rate=1.0e-6,5.0e-7"'
        )
    for override in swept:
        line = override.input_line
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            problems.append(f"{line}: glob() found, expected the values: a,b")
        elif override.is_interval_sweep() and not sweep.sweeper:
            problems.append(
                f"{line}: an interval found, expected values such as a,b or range(1,4); a sweeper "
                "that searches (hydra/sweeper=…) takes intervals"
            )
    if not is_metric(sweep.metric):
        names = ["accuracy", *sorted(_COLUMNS), *(f"{family}/…" for family in sorted(_FAMILIES))]
        problems.append(
            f"sweep.metric: {sweep.metric} found, expected one of {', '.join(names)}"
            f"{did_you_mean(sweep.metric, names)}"
        )
    if not 0 < sweep.last_share <= 1:
        problems.append(f"sweep.last_share: {sweep.last_share} found, expected above 0, at most 1")
    if sweep.metric == "loss" and sweep.direction == "maximise":
        problems.append("sweep.direction: maximise found, expected minimise with sweep.metric=loss")
    problems += [
        f"sweep.evaluation: {override} found, but a sweep chooses by validation users: "
        "a choice that is made on test users spoils them"
        for override in sweep.evaluation
        if override_key(override) == "evaluation.split"
    ]
    return problems + _hydra_problems(config)


def _hydra_problems(config: SweepConfig) -> list[str]:
    """A launcher or a sweeper that isn't there, and values that they don't have."""
    given = [*config.sweep.launcher, *config.sweep.sweeper]
    try:
        with initialize_config_dir(config_dir=str(HYDRA_CONF), version_base="1.3"):
            compose("points", overrides=given, return_hydra_config=True)
    except HydraException as error:
        needs = "; LAUNCHER=slurm needs: .venv/bin/python -m pip install -e '.[slurm]'"
        message = " ".join(str(error).split("Config search path")[0].split())
        return [f"{' '.join(given)}: {message}{needs if 'submitit' in message else ''}"]
    return []


def _is_below(override: str, keys: Sequence[str]) -> bool:
    key = override_key(override)
    return any(key == known or key.startswith(f"{known}.") for known in keys)


def _quoted(text: str) -> str:
    """A text as one value of Hydra's, with nothing in it that is read."""
    return QuotedString(text.replace("${", "\\${"), Quote.double).with_quotes()

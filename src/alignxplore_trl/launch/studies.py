"""The commands of a study: what is trained for each variant and seed, and how it is scored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.launch.compose import compose_recipe, did_you_mean
from alignxplore_trl.launch.config import StudyConfig
from alignxplore_trl.launch.runs import make_arguments, name_of_run, overrides_for
from alignxplore_trl.run.errors import UserError

# Of an evaluation that is run for its accuracies alone.
ACCURACY_ONLY = (
    "evaluation.faithfulness=false",
    "evaluation.win_rate.pairs=[]",
    "evaluation.controls=[]",
)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")


@dataclass(frozen=True)
class StageCommand:
    """A stage that a study or a sweep needs, and the overrides it is told."""

    recipe: str
    overrides: tuple[str, ...]

    @property
    def run_name(self) -> str:
        """The run that it makes or, where that is finished, finds."""
        return name_of_run(self.recipe, self.overrides)

    @property
    def make_arguments(self) -> list[str]:
        """The words behind `make`."""
        return make_arguments(self.recipe, self.overrides)


def training_command(config: StudyConfig, label: str, seed: int) -> StageCommand | None:
    """What trains a variant, with all stages before it; `None` for one that isn't trained."""
    training = config.study.variants[label].training
    if training is None:
        return None
    setting = f"setting={training.setting}"
    overrides = [*_shared(config, training.stage, seed), setting, *training.overrides]
    return StageCommand(training.stage, tuple(overrides))


def evaluation_command(config: StudyConfig, label: str, seed: int) -> StageCommand:
    """What scores a variant, under a name that begins with the study's and the variant's."""
    study, variant = config.study, config.study.variants[label]
    training = training_command(config, label, seed)
    overrides = [
        *_shared(config, "evaluate", seed),
        *([f"upstream.{variant.method}={training.run_name}"] if training else []),
        f'evaluation.methods=["{variant.method}"]',
        f"evaluation.benchmarks=[{','.join(study.evaluation.benchmarks)}]",
        f"evaluation.settings=[{','.join(variant.settings)}]",
        # What a study doesn't show isn't asked for.
        *ACCURACY_ONLY,
        *([] if "acc_gen" in study.figures else ["evaluation.generators=[]"]),
        *study.evaluation.overrides,
    ]
    name = f"study-{study.name}-{_slug(label)}-{name_of_run('evaluate', overrides)}"
    return StageCommand("evaluate", (*overrides, f"run_name={name}"))


def commands_of(config: StudyConfig, seed: int) -> Iterator[tuple[str, StageCommand]]:
    """All that a study runs for one seed, in order, each with the key of the variant it is for."""
    for label in config.study.variants:
        for command in (
            training_command(config, label, seed),
            evaluation_command(config, label, seed),
        ):
            if command is not None:
                yield f"study.variants.{label}", command


def _shared(config: StudyConfig, stage: str, seed: int) -> list[str]:
    return [
        f"scale={config.scale.name}",
        f"seed={seed}",
        f"paths.outputs={config.paths.outputs}",
        f"paths.assets={config.paths.assets}",
        *overrides_for(stage, "rl", config.overrides),
    ]


def _slug(label: str) -> str:
    return label.replace(" ", "_")


def study_problems(config: StudyConfig) -> list[str]:
    """What can't be in a study, each as one problem with the key."""
    study = config.study
    problems = [
        f"study.{key}: found none, expected at least one"
        for key in ("variants", "figures")
        if not getattr(study, key)
    ]
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        problems.append(f"seeds: {config.seeds} found, expected at least one, each once")
    if not study.evaluation.benchmarks:
        problems.append("study.evaluation.benchmarks: found none, expected at least one")
    if study.curve == "benchmarks":
        problems += [
            f"study.evaluation.benchmarks: {name} found, expected a number at its end, which is "
            "where it stands on a curve over benchmarks"
            for name in study.evaluation.benchmarks
            if not re.search(r"\d$", name)
        ]
    slugs = [_slug(label) for label in study.variants]
    for label in study.variants:
        if not _LABEL.fullmatch(label) or slugs.count(_slug(label)) > 1:
            problems.append(
                f"study.variants: {label!r} found, expected letters, digits, ' ', '.', '_' and "
                "'-', as folders are named by it, and no two alike"
            )
        problems += _variant_problems(config, label)
    return problems + _place_problems(config)


def _variant_problems(config: StudyConfig, label: str) -> list[str]:
    variant, curve = config.study.variants[label], config.study.curve
    where, problems = f"study.variants.{label}", []
    if (variant.at is None) == (curve == "variants"):
        expected = "a number, its place on the curve" if curve == "variants" else "null"
        problems.append(f"{where}.at: {variant.at} found, expected {expected}")
    if not variant.settings or (curve != "settings" and len(variant.settings) > 1):
        expected = "one or more" if curve == "settings" else "one"
        problems.append(f"{where}.settings: {len(variant.settings)} found, expected {expected}")
    for name in variant.settings:
        try:
            Setting.from_name(name)
        except UserError as error:
            problems += [f"{where}.settings: {problem}" for problem in error.problems]
    trained = [key for key in compose_recipe("evaluate", ())["upstream"] if key != "prepare"]
    if variant.training is not None and variant.method not in trained:
        problems.append(
            f"{where}.method: {variant.method} found, expected a policy that the evaluation takes "
            f"from upstream{did_you_mean(variant.method, trained)}; it has {', '.join(trained)}"
        )
    return problems


def _place_problems(config: StudyConfig) -> list[str]:
    """Orderings and ratios name what the study has."""
    study = config.study
    known = [place for label in study.variants for place in _places_of(config, label)]
    named = {f"study.orderings[{n}]": names for n, names in enumerate(study.orderings)}
    problems = [
        f"{where}: {names} found, expected two variants or more, from the worst to the best"
        for where, names in named.items()
        if len(names) < 2
    ]
    for number, ratio in enumerate(study.ratios):
        named[f"study.ratios[{number}]"] = [ratio.of, ratio.to]
        if ratio.figure not in study.figures:
            problems.append(
                f"study.ratios[{number}].figure: {ratio.figure} found, expected one of "
                f"study.figures, {', '.join(study.figures)}"
            )
    return problems + [
        f"{where}: {name!r} found, expected a variant, or variant/setting where it has several"
        f"{did_you_mean(name, known)}"
        for where, names in named.items()
        for name in names
        if name not in known
    ]


def _places_of(config: StudyConfig, label: str) -> list[str]:
    """How orderings and ratios may call a variant: the rounds before the last are scored, too."""
    if config.study.curve != "settings":
        return [label]
    settings = config.study.variants[label].settings
    return [f"{label}/{each}" for name in settings for each in _names_after_each_round(name)]


def _names_after_each_round(setting: str) -> list[str]:
    try:
        return [each.name for each in Setting.from_name(setting).after_each_round]
    except UserError:
        return []  # Told where the variants are checked.

"""What an evaluation is asked for, checked before a model is loaded: names, lengths, runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore_trl.data.robustness import Drift, Shuffled, read_variation
from alignxplore_trl.evaluation.benchmarks import BenchmarkName
from alignxplore_trl.evaluation.methods import (
    ANOTHER_USERS,
    DECIDING,
    PROMPTING,
    UNTRAINED,
    WITHOUT_MODEL,
    MethodSetting,
    read_comparison,
)
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.launch.compose import did_you_mean
from alignxplore_trl.launch.config import AlignxData, EvaluateConfig
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.run.folder import is_finished, read_config
from alignxplore_trl.text.rendering import PromptSet

# Runs among `upstream` that aren't language models.
_NO_POLICIES = ("prepare", "vpl")


def check_what_is_evaluated(config: EvaluateConfig, problems: Problems) -> None:
    """Add a problem for each method, setting and benchmark that can't be had."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        problems.add(
            "launch: DeepSpeed found, expected none: an evaluation holds whole models in each "
            "process; choose LAUNCH=ddp, cpu2 or none"
        )
    _check_names_of_models(config, problems)
    _check_methods(config, problems)
    _check_templates(config, problems)
    _check_pairs(config, problems)
    settings = _read_settings(config.evaluation.settings, problems)
    sources = _check_prepared(config, problems)
    benchmarks = _read_benchmarks(config, sources, problems)
    own = [name for name in benchmarks if name.source == config.data.name]
    if len(own) == len(benchmarks):  # Of other data it is known when they are read.
        _check_lengths(config, own, settings, problems)
    for name in own:
        _check_variation(config, name, settings, problems)


def _check_names_of_models(config: EvaluateConfig, problems: Problems) -> None:
    """Judges and generators are called by their folders, but for the two of the configuration."""
    own = {config.judge.model, config.judge.test_model}
    for key in ("judges", "generators"):
        others = [each for each in getattr(config.evaluation, key) if each not in own]
        names = Counter(Path(source).name.lower() for source in others)
        names.update([config.model.judge_name, config.model.test_judge_name])
        for name, count in names.items():
            if count > 1:
                problems.add(
                    f"evaluation.{key}: several would be called {name} in results, expected a "
                    "folder of another name for each"
                )


def known_methods(config: EvaluateConfig) -> list[str]:
    """All methods that an evaluation can compare."""
    return [*WITHOUT_MODEL, "pba", "vpl", *PROMPTING, *UNTRAINED, *policies_of(config)]


def policies_of(config: EvaluateConfig) -> list[str]:
    """Names of the trained policies that an evaluation can score, trained yet or not."""
    return [key for key in config.upstream if key not in _NO_POLICIES]


def _check_methods(config: EvaluateConfig, problems: Problems) -> None:
    known = known_methods(config)
    asked = config.evaluation.methods
    if asked is not None and not asked:
        problems.add("evaluation.methods: found none, expected at least one, or null")
    for name in asked or ():
        if name not in known:
            problems.add(
                f"evaluation.methods: {name} found{did_you_mean(name, known)}; methods are "
                f"{', '.join(known)}"
            )
    if "pba" in (asked or ()) and config.data.name != "world" and not dimensions_of(config):
        problems.add(
            f"evaluation.methods: pba found, which needs named dimensions; data={config.data.name} "
            "has none, data=alignx has"
        )
    for name in policies_of(config):
        if asked is not None and config.upstream[name] is not None and name not in asked:
            problems.add(
                f"upstream.{name}: {config.upstream[name]} found, but {name} isn't among "
                "evaluation.methods; name it there, too"
            )
    _check_repeated("evaluation.methods", asked or (), problems)


def dimensions_of(config: EvaluateConfig) -> list[dict[str, str]]:
    """The dimensions that the configuration of the data names."""
    return list(getattr(config.data, "dimensions", []))


def _check_templates(config: EvaluateConfig, problems: Problems) -> None:
    """Some methods ask with templates that not every prompt set has."""
    asked = config.evaluation.methods or ()
    try:
        prompts = PromptSet(config.prompts.folder)
        if "prompted_concise" in asked:
            prompts.concise([], None)
        if "lm_induct_reason" in asked:
            prompts.rule_proposal([])
            prompts.rule_feedback([], [])
    except UserError as error:
        problems.found += error.problems


def _check_pairs(config: EvaluateConfig, problems: Problems) -> None:
    """What is compared, and what is given to other users, is written as it has to be."""
    asked, known = config.evaluation, known_methods(config)
    controls = [f"{ANOTHER_USERS}{name}" for name in known]
    known += controls
    named: list[tuple[str, MethodSetting]] = []
    texts_of = {
        "differences": asked.differences,
        "controls": asked.controls,
        "win_rate.pairs": asked.win_rate.pairs,
    }
    for key, texts in texts_of.items():
        for text in texts:
            try:
                read = [MethodSetting.read(text)] if key == "controls" else read_comparison(text)
            except UserError as error:
                found = [problem.removeprefix("setting: ") for problem in error.problems]
                problems.found += [f"evaluation.{key}: {problem}" for problem in found]
                continue
            named += [(f"evaluation.{key}", each) for each in read]
    for key, each in named:
        if key == "evaluation.win_rate.pairs" and each.method in DECIDING:
            problems.add(f"{key}: {each.method} found, which writes no descriptions to reply under")
        if key == "evaluation.controls" and each.method in (*DECIDING, "null", *controls):
            problems.add(f"{key}: {each.method} found, which has no descriptions of its own")
        if each.method not in known:
            near = did_you_mean(each.method, known)
            problems.add(f"{key}: the method {each.method} found, which isn't one{near}")


def _check_repeated(key: str, values: Sequence[str], problems: Problems) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            problems.add(f"{key}: {value} found {count} times, expected it once")


def _read_settings(names: Sequence[str], problems: Problems) -> list[Setting]:
    if not names:
        problems.add("evaluation.settings: found none, expected some, such as [base4]")
    _check_repeated("evaluation.settings", names, problems)
    settings = []
    for name in names:
        try:
            settings.append(Setting.from_name(name))
        except UserError as error:
            found = [problem.removeprefix("setting: ") for problem in error.problems]
            problems.found += [f"evaluation.settings: {problem}" for problem in found]
    return settings


def _check_prepared(config: EvaluateConfig, problems: Problems) -> list[str]:
    """The names of the data that benchmarks can be made of."""
    sources: list[str] = [config.data.name]
    for name in config.evaluation.prepared:
        folder = Path(config.paths.outputs) / "prepare" / name
        if not is_finished(folder):
            problems.add(
                f"evaluation.prepared: the run {folder} isn't there, or isn't finished; make it "
                f"with: make data RUN={name} DATA=… DATA_PATH=…"
            )
            continue
        source = str(_data_of(folder)["name"])
        if source in sources:
            problems.add(
                f"evaluation.prepared: {folder} found, which holds {source}, as does another run "
                "of this evaluation; expected each of the data once"
            )
        sources.append(source)
    return sources


def _data_of(folder: Path) -> Mapping[str, Any]:
    return dict(read_config(folder)["data"])


def _read_benchmarks(
    config: EvaluateConfig, sources: Sequence[str], problems: Problems
) -> list[BenchmarkName]:
    texts = config.evaluation.benchmarks
    if texts is not None and not texts:
        problems.add("evaluation.benchmarks: found none, expected at least one, or null")
    _check_repeated("evaluation.benchmarks", texts or (), problems)
    # Of data that aren't there, which is told, no name is known.
    all_known = len(sources) > len(config.evaluation.prepared)
    names = []
    for text in [config.data.name] if texts is None else texts:
        try:
            names.append(BenchmarkName.read(text, sources))
        except UserError as error:
            problems.found += error.problems if all_known else []
    for name in names:
        if name.cases == "posts" and name.source != "alignx":
            problems.add(
                f"evaluation.benchmarks: {name} found, but {name.source} has no test users whose "
                "history is posts; alignx has"
            )
    return names


def _check_lengths(
    config: EvaluateConfig,
    names: Sequence[BenchmarkName],
    settings: Sequence[Setting],
    problems: Problems,
) -> None:
    """A setting that no benchmark has signals enough for."""
    available = {_available(config, name) for name in names}
    for setting in settings:
        if available and max(available)[0] < setting.signals:
            signals, key = max(available)
            problems.add(
                f"evaluation.settings: {setting.name} reads {setting.signals} signals, but {key} "
                f"is {signals}"
            )


def _available(config: EvaluateConfig, name: BenchmarkName) -> tuple[int, str]:
    if name.cases == "posts" and isinstance(config.data, AlignxData):
        return config.data.test_posts.signals, "data.test_posts.signals"
    return config.data.signals_per_user, "data.signals_per_user"


def _check_variation(
    config: EvaluateConfig, name: BenchmarkName, settings: Sequence[Setting], problems: Problems
) -> None:
    if name.variation is None:
        return
    variation = read_variation(name.variation)
    kind = "posts" if name.cases == "posts" else getattr(config.data, "signal_kind", "comparisons")
    if not isinstance(variation, Shuffled) and kind != "comparisons":
        problems.add(
            f"evaluation.benchmarks: {name} reverses comparisons, but the signals are {kind}; "
            f"choose {name.source}_shuffled, or data.signal_kind=comparisons"
        )
    longest = max((setting.signals for setting in settings), default=0)
    if isinstance(variation, Drift) and settings and variation.count > longest:
        problems.add(
            f"evaluation.benchmarks: {name} reverses {variation.count} signals, but "
            f"evaluation.settings read at most {longest}; add one that reads as many, such as "
            f"base{variation.count}"
        )

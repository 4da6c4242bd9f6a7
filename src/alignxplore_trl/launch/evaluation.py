"""From the configuration to an evaluation: its benchmarks, its judges, its methods."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from alignxplore_trl.baselines.lm_induct_reason import LMInductReason
from alignxplore_trl.baselines.pba import Pba
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.baselines.vpl import Vpl
from alignxplore_trl.data.alignx import dimensions_from_config
from alignxplore_trl.data.robustness import opposites_of
from alignxplore_trl.data.sources import read_split
from alignxplore_trl.data.world import OPPOSITE
from alignxplore_trl.evaluation.benchmarks import Benchmark, BenchmarkName, make_benchmark
from alignxplore_trl.evaluation.controls import of_another_user
from alignxplore_trl.evaluation.kept import (
    KeptAnswers,
    KeptCompletions,
    KeptGenerator,
    KeptJudge,
    KeptLanguageModel,
)
from alignxplore_trl.evaluation.methods import (
    ANOTHER_USERS,
    ONE_READING,
    PROMPTING,
    UNTRAINED,
    WITHOUT_MODEL,
    AllAtOnce,
    Comparison,
    Entries,
    Method,
    MethodSetting,
    read_comparison,
)
from alignxplore_trl.evaluation.policies import Policy
from alignxplore_trl.evaluation.replies import write_replies
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.evaluation.win_rate import ComparedReplies, compare_replies, draw_cases
from alignxplore_trl.inference.describing import Describer, DescriptionWriter, SamplingSettings
from alignxplore_trl.inference.language_models import VllmLanguageModel
from alignxplore_trl.inference.prompted import (
    PromptedDescriber,
    prompted_concise,
    prompted_reasoning,
)
from alignxplore_trl.judging.generator import Generator
from alignxplore_trl.judging.generator_cache import identity_of
from alignxplore_trl.judging.protocol import Judge
from alignxplore_trl.launch.config import (
    AnyLanguageModelSettings,
    EvaluateConfig,
    NoLanguageModelSettings,
    ServerLanguageModelSettings,
)
from alignxplore_trl.launch.entry import upstream_folder
from alignxplore_trl.launch.evaluation_checks import dimensions_of, policies_of
from alignxplore_trl.launch.language_models import load_language_model
from alignxplore_trl.launch.models import (
    generator_identity,
    judge_identity,
    load_generator,
    load_judge,
    without,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import read_config
from alignxplore_trl.run.progress import say
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.rendering import PromptSet

Opposites = Mapping[str, str]


def methods_of(config: EvaluateConfig) -> list[str]:
    """The methods that are compared: those asked for, or all that need nothing more."""
    if config.evaluation.methods is not None:
        return config.evaluation.methods
    vpl = ["vpl"] if config.upstream["vpl"] is not None else []
    return [*WITHOUT_MODEL, *vpl, *UNTRAINED, *trained_of(config)]


def trained_of(config: EvaluateConfig) -> list[str]:
    """The policies that have a finished run."""
    return [name for name in policies_of(config) if config.upstream[name] is not None]


def settings_of(config: EvaluateConfig, method: str) -> list[Setting]:
    """The settings in which a method is tried.

    A policy trained in the base setting never saw an earlier description, and some methods read all
    signals at once: no rounds for these.
    """
    settings = [Setting.from_name(name) for name in config.evaluation.settings]
    no_rounds = "_base" in method or method in ONE_READING
    return [each for each in settings if each.rounds == 1 or not no_rounds]


def read_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks with the histories that each setting reads.

    Raises:
        UserError: a name can't be read, or a benchmark has no cases.
    """
    folders = {config.data.name: upstream_folder(config, "prepare"), **prepared_folders(config)}
    asked = config.evaluation
    settings = [Setting.from_name(name) for name in asked.settings]
    benchmarks = []
    for text in asked.benchmarks or [config.data.name]:
        name = BenchmarkName.read(text, folders)
        folder = folders[name.source]
        cases = read_split(folder, "test_posts" if name.cases == "posts" else asked.split)
        if not cases:
            raise UserError(
                f"evaluation.benchmarks: {text} found, but there are no such cases in {folder}; "
                "its summary.json says what was left out, and why"
            )
        opposites = _opposites(read_config(folder)["data"])
        benchmarks.append(
            make_benchmark(name, cases[: asked.cases], settings, config.seed, opposites)
        )
    return benchmarks


def prepared_folders(config: EvaluateConfig) -> dict[str, Path]:
    """The folders of data beside the run's own, by the data's name."""
    folders = [Path(config.paths.outputs) / "prepare" / name for name in config.evaluation.prepared]
    return {str(read_config(folder)["data"]["name"]): folder for folder in folders}


def _opposites(data: Mapping[str, Any]) -> Opposites:
    if data["name"] == "world":
        return OPPOSITE
    dimensions = data.get("dimensions", [])
    return opposites_of([(each["positive"], each["negative"]) for each in dimensions])


def load_judges(config: EvaluateConfig, prompts: PromptSet, kept: KeptAnswers) -> dict[str, Judge]:
    """The judges by the names they have in results, the one that nothing was trained against first.

    Raises:
        UserError: a judge's server doesn't answer as it should.
    """
    return {
        name: _load_kept_judge(source, config, prompts, kept)
        for name, source in judge_sources(config).items()
    }


def _load_kept_judge(
    source: str, config: EvaluateConfig, prompts: PromptSet, kept: KeptAnswers
) -> Judge:
    identity = judge_identity(source, config.judge, prompts, config.seed)
    return KeptJudge(load_judge(source, prompts, config.judge, config.seed), kept, identity)


def judge_sources(config: EvaluateConfig) -> dict[str, str]:
    """Where each judge is, by its name in results."""
    sources = [config.judge.test_model, config.judge.model, *config.evaluation.judges]
    return {name_in_results(config, source): source for source in sources}


def load_generators(
    config: EvaluateConfig, prompts: PromptSet, kept: KeptAnswers
) -> dict[str, Generator]:
    """The generators of ACC_gen by the names they have in results."""
    asked, settings = config.evaluation, config.judge
    return {
        name_in_results(config, source): KeptGenerator(
            load_generator(source, prompts, settings, asked.generator_batch_tokens),
            kept,
            generator_identity(source, settings, prompts),
        )
        for source in asked.generators
    }


def name_in_results(config: EvaluateConfig, source: str) -> str:
    """What tables call a model that judges: the name of the configuration, or its folder's."""
    names = {
        config.judge.model: config.model.judge_name,
        config.judge.test_model: config.model.test_judge_name,
    }
    return names.get(source, Path(source).name.lower())


class Methods:
    """Loads methods by name; those that share a model share it in memory.

    Args:
        config: says which models and how they sample.
        prompts: the templates.
        kept: where what models write is kept.

    Attributes:
        counts: of what language models left unanswered, and of what methods did, `<method>/<what>`.
    """

    def __init__(self, config: EvaluateConfig, prompts: PromptSet, kept: KeptAnswers) -> None:
        self._config = config
        self._prompts = prompts
        self._kept = kept
        self._prompted: KeptLanguageModel | None = None
        self._counted: dict[str, Counter[str]] = {}
        is_served = isinstance(config.language_model, ServerLanguageModelSettings)
        if is_served and {*PROMPTING} & {*methods_of(config)}:
            self._language_model()  # A server that doesn't answer is found before others write.

    def load(self, name: str) -> Method:
        """A method, with its model where it has one."""
        if name in WITHOUT_MODEL:
            return WITHOUT_MODEL[name]
        others = {"pba": self._pba, "vpl": self._vpl, "lm_induct_reason": self._lm_induct_reason}
        if name in others:
            return others[name]()
        writer = self._prompted_writer(name) if name in PROMPTING else self._policy_writer(name)
        return Policy(name, writer, self._config.seed)

    @property
    def counts(self) -> dict[str, int]:
        """What methods could not read, and what language models left unanswered, in all."""
        unanswered = self._prompted.unanswered if self._prompted else {}
        return {
            **{f"language_model/unanswered/{why}": count for why, count in unanswered.items()},
            **{
                f"{method}/{what}": count
                for method, counts in self._counted.items()
                for what, count in counts.items()
            },
        }

    def _pba(self) -> Method:
        """Labels by the judge of training, on the dimensions of the data."""
        config = self._config
        judge = _load_kept_judge(config.judge.model, config, self._prompts, self._kept)
        if config.data.name == "world":
            pba = Pba.of_world(judge)
        else:
            pba = Pba(judge, dimensions_from_config(dimensions_of(config)))
        self._counted["pba"] = pba.counts
        return AllAtOnce("pba", pba.describe)

    def _vpl(self) -> Method:
        config = self._config
        vpl = Vpl.load(
            upstream_folder(config, "vpl") / "model",
            dtype=config.model.dtype,
            device=PartialState().device,
            max_batch_tokens=config.evaluation.generator_batch_tokens,
        )
        self._counted["vpl"] = vpl.counts
        return AllAtOnce("vpl", vpl.decide)

    def _lm_induct_reason(self) -> Method:
        config, model = self._config, self._language_model()
        limit = config.prompts.max_prompt_tokens
        induction = LMInductReason(model, self._prompts, max_prompt_tokens=limit, seed=config.seed)
        self._counted["lm_induct_reason"] = induction.counts
        return AllAtOnce("lm_induct_reason", induction.describe)

    def _prompted_writer(self, name: str) -> DescriptionWriter:
        prompted = prompted_concise if name == "prompted_concise" else prompted_reasoning
        return prompted(
            self._language_model(),
            self._prompts,
            temperature=self._settings().temperature,
            max_prompt_tokens=self._config.prompts.max_prompt_tokens,
        )

    def _policy_writer(self, name: str) -> DescriptionWriter:
        config = self._config
        untrained = {"backbone": config.model.backbone, "teacher": config.model.teacher}
        source = untrained.get(name) or str(upstream_folder(config, name) / "model")
        if config.evaluation.engine is not None:
            return self._in_vllm(source, config.evaluation.engine)
        return _load_writer(source, config, self._prompts, self._kept)

    def _in_vllm(self, source: str, engine: Mapping[str, Any]) -> PromptedDescriber:
        """A policy in vLLM in this process, asked and read as it is without."""
        config, sampling = self._config, sampling_of_policies(self._config)
        model = VllmLanguageModel(source, sampling, seed=config.seed, chat=False, engine=engine)
        identity = [identity_of(source, dtype="vllm"), asdict(sampling), dict(engine)]
        return prompted_reasoning(
            KeptLanguageModel(model, self._kept, json.dumps(identity)),
            self._prompts,
            temperature=sampling.temperature,
            max_prompt_tokens=config.prompts.max_prompt_tokens,
        )

    def _settings(self) -> AnyLanguageModelSettings:
        settings = self._config.language_model
        assert not isinstance(settings, NoLanguageModelSettings)  # Refused by the checks.
        return settings

    def _language_model(self) -> KeptLanguageModel:
        settings, config = self._settings(), self._config
        if self._prompted is None:
            limit = config.prompts.max_prompt_tokens
            model = load_language_model(settings, self._prompts, limit, config.seed)
            how = without(asdict(settings), "server", "batch_size", "engine")
            identity = json.dumps([identity_of(settings.model, dtype=settings.name), how])
            self._prompted = KeptLanguageModel(model, self._kept, identity)
        return self._prompted


def _load_writer(
    source: str,
    config: EvaluateConfig,
    prompts: PromptSet,
    kept: KeptAnswers,
    max_new_tokens: int | None = None,
) -> KeptCompletions:
    """A model that writes descriptions or replies, sampled as the recipe asks for; kept."""
    asked, dtype = config.evaluation, config.model.dtype
    sampling = sampling_of_policies(config)
    if max_new_tokens is not None:
        sampling = replace(sampling, max_new_tokens=max_new_tokens)
    model = Describer.from_folder(
        source,
        prompts,
        dtype=dtype,
        device=PartialState().device,
        sampling=sampling,
        max_prompt_tokens=config.prompts.max_prompt_tokens,
        batch_size=asked.batch_size,
    )
    identity = [identity_of(source, dtype=dtype), asdict(sampling), asked.batch_size]
    return KeptCompletions(model, kept, json.dumps(identity))


def sampling_of_policies(config: EvaluateConfig) -> SamplingSettings:
    """How descriptions are sampled."""
    asked = config.evaluation
    limit = config.model.max_completion_tokens
    return SamplingSettings(limit, asked.temperature, asked.top_p, asked.top_k)


def describe(
    benchmarks: Sequence[Benchmark], config: EvaluateConfig, methods: Methods
) -> dict[str, dict[MethodSetting, Entries]]:
    """What every method says of the cases of every benchmark; each model is loaded once."""
    described: dict[str, dict[MethodSetting, Entries]] = {each.name: {} for each in benchmarks}
    for name in methods_of(config):
        method = methods.load(name)
        for benchmark in benchmarks:
            found: dict[MethodSetting, Entries] = {}
            for setting in settings_of(config, name):
                history = benchmark.histories.by_setting.get(setting)
                if not history:
                    say(
                        f"{name}: {benchmark.name} has too few signals for {setting.name}, left out"
                    )
                    continue
                say(f"{name} in the setting {setting.name}, {len(history)} users, {benchmark.name}")
                for each, entries in method.describe_in(setting, history).items():
                    found.setdefault(MethodSetting(name, each.name), entries)
            described[benchmark.name] |= found
    return described


def add_controls(
    methods: Mapping[MethodSetting, Entries],
    cases: Sequence[PreferenceCase],
    config: EvaluateConfig,
) -> dict[MethodSetting, Entries]:
    """The methods, and those asked for once more with the descriptions given to other users."""
    controls: dict[MethodSetting, Entries] = {}
    for name in map(MethodSetting.read, config.evaluation.controls):
        if name in methods:
            control = MethodSetting(f"{ANOTHER_USERS}{name.method}", name.setting)
            controls[control] = of_another_user(cases, _described(methods[name]), config.seed)
    return {**methods, **controls}


def compared_pairs(
    texts: Sequence[str], methods: Mapping[MethodSetting, Entries]
) -> list[Comparison]:
    """The pairs to compare of which both were evaluated; where one was, it is told what lacks."""
    pairs = [read_comparison(text) for text in texts]
    missing = dict.fromkeys(
        name
        for pair in pairs
        if any(each in methods for each in pair)
        for name in pair
        if name not in methods
    )
    if missing:
        names = ", ".join("/".join(name) for name in missing)
        say(f"left out of comparisons, since they weren't evaluated: {names}")
    return [pair for pair in pairs if all(name in methods for name in pair)]


class WinRates:
    """Writes replies under descriptions, and has them compared.

    Args:
        config: says who writes, who compares, and which methods' replies.
        prompts: the templates.
        kept: where replies and verdicts are kept.
    """

    def __init__(self, config: EvaluateConfig, prompts: PromptSet, kept: KeptAnswers) -> None:
        self.asked, self.seed, self.prompts = config.evaluation.win_rate, config.seed, prompts
        if self.asked.pairs:
            limit = self.asked.max_new_tokens
            self._writer = _load_writer(self.asked.writer, config, prompts, kept, limit)
            name = name_in_results(config, self.asked.judge)
            self._judges = {name: _load_kept_judge(self.asked.judge, config, prompts, kept)}

    def compare(
        self, benchmark: Benchmark, methods: Mapping[MethodSetting, Entries]
    ) -> list[ComparedReplies]:
        """What came of the pairs that were evaluated; nothing where no true preference is known."""
        pairs = compared_pairs(self.asked.pairs, methods)
        drawn = draw_cases(benchmark.cases, self.asked.cases, self.seed) if pairs else []
        if pairs and not drawn:
            say(f"{benchmark.name}: no true preferences are known, so that there is no win rate")
        if not drawn:
            return []
        replies = {
            name: write_replies(
                self._writer, self.prompts, drawn, _described(methods[name]), self.seed
            )
            for name in dict.fromkeys(name for pair in pairs for name in pair)
        }
        return compare_replies(benchmark.name, drawn, replies, pairs, self._judges)


def _described(entries: Entries) -> list[UserDescription]:
    return [each for each in entries if isinstance(each, UserDescription)]

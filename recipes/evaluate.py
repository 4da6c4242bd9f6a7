"""What descriptions are worth: every method under the training judge and the test judge."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.launch.config import EvaluateConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say
from alignxplore_trl.signals import PreferenceCase

POLICIES = ("cold_start", "rl_base4", "rl_base8", "rl_streaming")


def main(config: EvaluateConfig, folder: RunFolder) -> None:
    """Describe the users with every method in every setting, judge, count, and print the table."""
    # Imported here, so that a mistake in the command line is answered at once.
    from accelerate import PartialState

    from alignxplore_trl.baselines.golden import Golden
    from alignxplore_trl.baselines.longer_reply import LongerReply
    from alignxplore_trl.baselines.null import Null
    from alignxplore_trl.baselines.signals import Signals
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.evaluation.policies import Policy
    from alignxplore_trl.evaluation.scoring import MethodSetting, score, write_verdicts
    from alignxplore_trl.evaluation.settings import Setting
    from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
    from alignxplore_trl.evaluation.summary import read_differences, summarise
    from alignxplore_trl.inference.describing import Describer, SamplingSettings
    from alignxplore_trl.judging.local import LocalJudge
    from alignxplore_trl.reporting.charts import accuracy_chart
    from alignxplore_trl.reporting.tables import accuracy_table
    from alignxplore_trl.text.rendering import PromptSet

    asked, model, judges = config.evaluation, config.model, config.judge
    cases = read_split(upstream_folder(config, "prepare"), asked.split)[: asked.cases]
    prompts = PromptSet(config.prompts.folder)
    device = PartialState().device
    settings = [Setting.from_name(name) for name in asked.settings]

    methods: dict[MethodSetting, Sequence[UserDescription | Decision]] = {}
    without_model: dict[str, Callable[[list[PreferenceCase]], list[Any]]] = {
        "null": Null().describe,
        "signals": Signals().describe,
        "golden": Golden().describe,
        "longer_reply": LongerReply().decide,
    }
    for name in (name for name in asked.methods if name in without_model):
        for setting in settings:
            said = without_model[name](setting.history(cases))
            methods[MethodSetting(name, setting.name)] = said

    found = [name for name in POLICIES if config.upstream[name] is not None]
    models = {"backbone": model.backbone, "teacher": model.teacher}
    models = {name: models[name] for name in models if name in asked.methods}
    models |= {name: str(upstream_folder(config, name) / "model") for name in found}
    for name, path in models.items():
        describer = Describer.from_folder(
            path,
            prompts,
            dtype=model.dtype,
            device=device,
            sampling=SamplingSettings(
                model.max_completion_tokens, asked.temperature, asked.top_p, asked.top_k
            ),
            max_prompt_tokens=config.prompts.max_prompt_tokens,
            batch_size=asked.batch_size,
        )
        for setting in settings:
            say(f"{name} describes {len(cases)} users in the setting {setting.name}")
            policy = Policy(name, describer, setting, config.seed)
            methods[MethodSetting(name, setting.name)] = policy.describe(cases)

    verdicts = score(
        cases,
        methods,
        {
            name: LocalJudge.from_folder(
                path,
                prompts,
                dtype=judges.dtype,
                device=device,
                max_batch_tokens=judges.max_batch_tokens,
                minimum_label_mass=judges.minimum_label_mass,
                chat=judges.chat,
            )
            for name, path in {
                model.judge_name: judges.model,
                model.test_judge_name: judges.test_model,
            }.items()
        },
        lambda text: len(describer.tokenizer(text).input_ids),
        order=asked.order,
        seed=config.seed,
    )
    write_verdicts(folder.completions / "verdicts.parquet", verdicts)
    names = {f"{method}/{setting}" for method, setting in methods}
    pairs = [text for text in asked.differences if set(text.split(" - ")) <= names]
    benchmark = config.data.name
    summary = summarise(
        benchmark,
        cases,
        methods,
        verdicts,
        read_differences(pairs, list(methods)),
        ClusteredBootstrap([case.cluster for case in cases], seed=config.seed),
    )
    accuracy_chart(summary, benchmark, folder.path / "accuracy.png")
    print(accuracy_table([summary], benchmark))
    folder.finish({"policies": " ".join(found), **summary})


if __name__ == "__main__":
    run_recipe(EvaluateConfig, main, sys.argv[1:])

"""What descriptions are worth: every method under the training judge and the test judge."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.launch.config import EvaluateConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say
from alignxplore_trl.signals import PreferenceCase

POLICIES = (
    "cold_start_unverified_base4",
    "cold_start_unverified_streaming",
    "rl_only_base4",
    "rl_only_streaming",
    *(
        f"{stage}_{setting}"
        for stage in ("cold_start", "rl")
        for setting in ("base4", "base8", "streaming")
    ),
)


def main(config: EvaluateConfig, folder: RunFolder) -> None:
    """Describe the users with every method in every setting, judge, count, and print the table."""
    # Imported here, so that a mistake in the command line is answered at once.
    import pandas as pd
    from transformers import AutoTokenizer

    from alignxplore_trl.baselines.golden import Golden
    from alignxplore_trl.baselines.longer_reply import LongerReply
    from alignxplore_trl.baselines.null import Null
    from alignxplore_trl.baselines.signals import Signals
    from alignxplore_trl.data.robustness import opposites_of
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.data.world import OPPOSITE
    from alignxplore_trl.evaluation.histories import histories_of
    from alignxplore_trl.evaluation.policies import Policy
    from alignxplore_trl.evaluation.scoring import MethodSetting, score, write_verdicts
    from alignxplore_trl.evaluation.settings import Setting
    from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
    from alignxplore_trl.evaluation.summary import read_differences, summarise
    from alignxplore_trl.launch.models import load_describer, load_judge
    from alignxplore_trl.reporting.charts import accuracy_chart
    from alignxplore_trl.reporting.tables import accuracy_table, difference_table
    from alignxplore_trl.text.rendering import PromptSet

    asked, model, judges = config.evaluation, config.model, config.judge
    benchmark = "_".join(filter(None, [config.data.name, asked.robustness]))
    without_model: dict[str, Callable[[Sequence[PreferenceCase]], Sequence[Any]]] = {
        "null": Null().describe,
        "signals": Signals().describe,
        "golden": Golden().describe,
        "longer_reply": LongerReply().decide,
    }
    untrained = {"backbone": model.backbone, "teacher": model.teacher}
    trained = [name for name in POLICIES if config.upstream[name] is not None]
    models = {name: path for name, path in untrained.items() if name in asked.methods}
    models |= {name: str(upstream_folder(config, name) / "model") for name in trained}
    settings = [Setting.from_name(name) for name in asked.settings]
    plan = [
        (name, setting)
        for name in [*(name for name in without_model if name in asked.methods), *models]
        for setting in settings
        if setting.rounds == 1 or "_base" not in name
    ]
    known = [*without_model, *untrained, *POLICIES]
    if unknown := set(asked.methods) - {*without_model, *untrained}:
        raise UserError(
            f"evaluation.methods: {', '.join(sorted(unknown))} found, expected some of "
            f"{', '.join([*without_model, *untrained])}; trained policies are added by themselves"
        )
    differences = read_differences(
        asked.differences,
        [MethodSetting(name, setting.name) for name, setting in plan],
        known,
    )

    prepared = upstream_folder(config, "prepare")
    read = read_split(prepared, asked.split)[: asked.cases]
    if not read:
        raise UserError(
            f"evaluation.split: {asked.split} found, which has no cases in {prepared}; "
            "its summary.json says what was left out, and why"
        )
    dimensions = getattr(config.data, "dimensions", [])
    poles = [(each["positive"], each["negative"]) for each in dimensions]
    opposites = OPPOSITE if config.data.name == "world" else opposites_of(poles)
    histories = histories_of(read, settings, asked.robustness, config.seed, opposites)
    cases = histories.cases
    prompts = PromptSet(config.prompts.folder)
    # First: a server that doesn't answer is found before the descriptions are written.
    by_name = {model.judge_name: judges.model, model.test_judge_name: judges.test_model}
    loaded = {
        name: load_judge(path, prompts, judges, config.seed) for name, path in by_name.items()
    }
    described: dict[MethodSetting, Sequence[UserDescription | Decision]] = {}
    for name, setting in plan:
        entries: Sequence[UserDescription | Decision]
        history = histories.by_setting[setting]
        say(f"{name} in the setting {setting.name}, {len(history)} users")
        if name in without_model:
            entries = without_model[name](history)
        else:
            describer = load_describer(models[name], prompts, config, asked)
            entries = Policy(name, describer, setting, config.seed).describe(history)
        described[MethodSetting(name, setting.name)] = entries

    tokenizer = AutoTokenizer.from_pretrained(model.backbone)
    verdicts = score(
        cases,
        described,
        loaded,
        lambda text: len(tokenizer(text).input_ids),
        order=asked.order,
        seed=config.seed,
    )
    write_verdicts(folder.completions / "verdicts.parquet", verdicts)
    if histories.changes:
        pd.DataFrame(histories.changes).to_parquet(folder.completions / "variations.parquet")
    clusters = ClusteredBootstrap([case.cluster for case in cases], seed=config.seed)
    summary = summarise(benchmark, cases, described, verdicts, differences, clusters)
    accuracy_chart(summary, benchmark, folder.path / "accuracy.png")
    title = f"{benchmark}, {asked.split}"
    tables = [title, accuracy_table([summary], benchmark)]
    if differences:
        tables.append(difference_table({f"seed {config.seed}": summary}, benchmark))
    write_text_atomic(folder.table, "\n".join([*tables, ""]))
    print(folder.table.read_text())
    changed = {f"robustness/{name}": count for name, count in histories.counts.items()}
    folder.finish({"policies": " ".join(trained), **changed, **summary})


if __name__ == "__main__":
    run_recipe(EvaluateConfig, main, sys.argv[1:])

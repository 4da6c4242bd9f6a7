"""What descriptions are worth: every method on every benchmark, under several judges."""

import sys

from alignxplore_trl.launch.config import EvaluateConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.run.folder import RunFolder, is_main_process
from alignxplore_trl.run.progress import say


def main(config: EvaluateConfig, folder: RunFolder) -> None:
    """Describe the users with every method in every setting, judge, count, and print the tables."""
    # Imported here, so that a mistake in the command line is answered at once.
    from transformers import AutoTokenizer

    from alignxplore_trl.evaluation.groups import accuracy_by_group
    from alignxplore_trl.evaluation.kept import KeptAnswers
    from alignxplore_trl.evaluation.scoring import score
    from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
    from alignxplore_trl.evaluation.summary import summarise
    from alignxplore_trl.evaluation.win_rate import summarise_win_rates
    from alignxplore_trl.launch.evaluation import (
        Methods,
        WinRates,
        add_controls,
        compared_pairs,
        describe,
        load_generators,
        load_judges,
        read_benchmarks,
        trained_of,
    )
    from alignxplore_trl.reporting.evaluation_files import EvaluationFiles
    from alignxplore_trl.text.rendering import PromptSet

    asked = config.evaluation
    benchmarks = read_benchmarks(config)
    prompts, kept = PromptSet(config.prompts.folder), KeptAnswers(asked.cache)
    # First: a server that doesn't answer is found before the descriptions are written.
    judges = load_judges(config, prompts, kept)
    generators = load_generators(config, prompts, kept)
    win_rates = WinRates(config, prompts, kept)
    loader = Methods(config, prompts, kept)
    described = describe(benchmarks, config, loader)
    tokenizer = AutoTokenizer.from_pretrained(config.model.backbone)

    files = EvaluationFiles(folder, config.seed)
    for benchmark in benchmarks:
        say(f"judging {benchmark.name}")
        methods = add_controls(described[benchmark.name], benchmark.cases, config)
        scores = score(
            benchmark.name,
            benchmark.cases,
            methods,
            judges,
            generators,
            lambda text: len(tokenizer(text).input_ids),
            order=asked.order,
            seed=config.seed,
            faithfulness=asked.faithfulness,
        )
        clusters = ClusteredBootstrap([case.cluster for case in benchmark.cases], seed=config.seed)
        groups = accuracy_by_group(benchmark.cases, scores.verdicts, clusters)
        pairs = compared_pairs(asked.differences, methods)
        summary = summarise(benchmark.name, benchmark.cases, scores, groups, pairs, clusters)
        compared = win_rates.compare(benchmark, methods)
        summary |= summarise_win_rates(compared, benchmark.cases, config.seed)
        files.add(benchmark, scores, groups, compared, summary)
    if is_main_process():
        files.write()
        print(folder.table.read_text())
    folder.finish({"policies": " ".join(trained_of(config)), **loader.counts, **files.summary})


if __name__ == "__main__":
    run_recipe(EvaluateConfig, main, sys.argv[1:])

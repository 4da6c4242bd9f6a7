"""The tables of the README: the whole chain for every seed, both settings; resumable."""

import sys
from pathlib import Path

from alignxplore_trl.launch.config import ResultsConfig
from alignxplore_trl.launch.entry import resolve, run_recipe
from alignxplore_trl.launch.make import make
from alignxplore_trl.launch.runs import make_arguments, overrides_for
from alignxplore_trl.run.folder import RunFolder, read_summary, write_text_atomic

README = Path(__file__).parents[1] / "README.md"


def main(config: ResultsConfig, folder: RunFolder) -> None:
    """Run the stages that aren't finished, and put their figures between the README's markers."""
    from alignxplore_trl.reporting.documents import fill_in
    from alignxplore_trl.reporting.tables import accuracy_table, difference_table

    summaries = {}
    outputs = Path(config.paths.outputs)
    for seed in config.seeds:
        paths = [f"paths.outputs={outputs}", f"paths.assets={config.paths.assets}"]
        common = [f"SCALE={config.scale.name}", f"SEED={seed}"]
        arguments = f"ARGS={' '.join([*paths, *config.overrides])}"
        make(["rl", "SIGNALS=4", *common, arguments])
        make(["rl", "SIGNALS=8", *common, arguments])
        make(["rl", *common, f"{arguments} start=backbone"])
        # What verification is worth: as many examples, drawn whatever the judge said of them.
        for setting in ("base", "streaming"):
            make(["cold-start", f"SETTING={setting}", *common, f"{arguments} examples=unverified"])
        overrides = (f"scale={config.scale.name}", f"seed={seed}", "setting=streaming")
        others = overrides_for("evaluate", "rl", (*paths, *overrides, *config.overrides))
        # It reads pairs in whatever rounds they came, and is found in the base setting.
        of_vpl = [each for each in others if each != "setting=streaming"]
        make(make_arguments("vpl", overrides_for("vpl", "evaluate", of_vpl)))
        # It ends in the evaluation of everything that is trained.
        make(["rl-streaming", *common, arguments])
        trained = resolve("evaluate", "rl", [*overrides, *config.overrides])
        others = (*others, f"evaluation.methods=[{','.join(config.methods)}]")
        make(make_arguments("evaluate", others))
        untrained = resolve("evaluate", "evaluate", others)
        summaries[f"seed {seed}"] = {
            key: value
            for each in (untrained, trained)
            for key, value in read_summary(outputs / "evaluate" / each["run_name"]).items()
        }
        benchmark = trained["data"]["name"]

    tables = "\n\n".join(
        [
            accuracy_table(list(summaries.values()), benchmark, "markdown"),
            difference_table(summaries, benchmark, "markdown", first_judge_only=True),
        ]
    )
    write_text_atomic(folder.table, tables + "\n")
    fill_in(README, "results", tables)
    folder.finish({"seeds": len(config.seeds)})


if __name__ == "__main__":
    run_recipe(ResultsConfig, main, sys.argv[1:])

"""The tables of the README: the whole chain for every seed, both settings; resumable."""

import shlex
import sys
from pathlib import Path

from alignxplore_trl.launch.config import ResultsConfig
from alignxplore_trl.launch.entry import resolve, run_recipe
from alignxplore_trl.launch.make import make
from alignxplore_trl.launch.runs import make_arguments, overrides_for
from alignxplore_trl.run.folder import RunFolder, read_summary, write_text_atomic


def main(config: ResultsConfig, folder: RunFolder) -> None:
    """Run the stages that aren't finished, and put their figures into the page."""
    from alignxplore_trl.reporting.documents import check_markers, fill_in
    from alignxplore_trl.reporting.tables import accuracy_table, difference_table

    page = Path(config.document)
    check_markers(page, "results")
    summaries = {}
    outputs = Path(config.paths.outputs)
    for seed in config.seeds:
        paths = [f"paths.outputs={outputs}", f"paths.assets={config.paths.assets}"]
        common = [f"SCALE={config.scale.name}", f"SEED={seed}"]
        arguments = f"ARGS={shlex.join([*paths, *config.overrides])}"
        make(["rl", "SIGNALS=4", *common, arguments])
        make(["rl", "SIGNALS=8", *common, arguments])
        # What the stages and verification are worth: RL without a cold start, and as many examples
        # drawn whatever the judge said of them.
        for setting in ("SETTING=base", "SETTING=streaming"):
            make(["rl", setting, *common, f"{arguments} start=backbone"])
            make(["cold-start", setting, *common, f"{arguments} examples=unverified"])
        overrides = (f"scale={config.scale.name}", f"seed={seed}")
        shared = (*paths, *overrides, *config.overrides)
        make(make_arguments("vpl", overrides_for("vpl", "rl", shared)))
        # It ends in the evaluation of everything that is trained.
        make(["rl-streaming", *common, arguments])
        trained = resolve("evaluate", "rl", [*overrides, "setting=streaming", *config.overrides])
        others = (
            *overrides_for("evaluate", "rl", (*shared, "setting=streaming")),
            f"evaluation.methods=[{','.join(config.methods)}]",
        )
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
    fill_in(page, "results", tables)
    folder.finish({"seeds": len(config.seeds)})


if __name__ == "__main__":
    run_recipe(ResultsConfig, main, sys.argv[1:])

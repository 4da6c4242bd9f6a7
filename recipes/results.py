"""The tables of the README: the whole chain for every seed, both settings; resumable."""

import json
import sys
from pathlib import Path

from alignxplore_trl.launch.config import ResultsConfig
from alignxplore_trl.launch.entry import resolve, run_recipe
from alignxplore_trl.launch.make import make
from alignxplore_trl.run.folder import RunFolder, write_text_atomic

README = Path(__file__).parents[1] / "README.md"


def main(config: ResultsConfig, folder: RunFolder) -> None:
    """Run the stages that aren't finished, and put their figures between the README's markers."""
    from alignxplore_trl.reporting.documents import fill_in
    from alignxplore_trl.reporting.tables import accuracy_table, difference_table

    summaries = {}
    for seed in config.seeds:
        paths = [f"paths.outputs={config.paths.outputs}", f"paths.assets={config.paths.assets}"]
        common = [f"SCALE={config.scale.name}", f"SEED={seed}"]
        arguments = f"ARGS={' '.join([*paths, *config.overrides])}"
        make(["rl", "SIGNALS=4", *common, arguments])
        make(["rl", "SIGNALS=8", *common, arguments])
        # What verification is worth: as many examples, drawn whatever the judge said of them.
        for setting in ("base", "streaming"):
            make(["cold-start", f"SETTING={setting}", *common, f"{arguments} examples=unverified"])
        # Last, because it ends in the evaluation of everything that is trained.
        make(["rl-streaming", *common, arguments])
        overrides = [f"scale={config.scale.name}", f"seed={seed}", "setting=streaming"]
        evaluated = resolve("evaluate", "rl", [*overrides, *config.overrides])
        benchmark = evaluated["data"]["name"]
        path = Path(config.paths.outputs) / "evaluate" / evaluated["run_name"] / "summary.json"
        summaries[f"seed {seed}"] = json.loads(path.read_text())

    tables = "\n\n".join(
        [
            accuracy_table(list(summaries.values()), benchmark, "markdown"),
            difference_table(summaries, benchmark, "markdown"),
        ]
    )
    write_text_atomic(folder.table, tables + "\n")
    fill_in(README, "results", tables)
    folder.finish({"seeds": len(config.seeds)})


if __name__ == "__main__":
    run_recipe(ResultsConfig, main, sys.argv[1:])

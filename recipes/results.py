"""The tables of the README: the whole chain for every seed, both settings; resumable."""

import json
import os
import subprocess
import sys
from pathlib import Path

from alignxplore_trl.launch.config import ResultsConfig
from alignxplore_trl.launch.entry import resolve, run_recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, write_text_atomic

README = Path(__file__).parents[1] / "README.md"
MARKERS = ("<!-- results: begin -->", "<!-- results: end -->")


def main(config: ResultsConfig, folder: RunFolder) -> None:
    """Run the stages that aren't finished, and put their figures between the README's markers."""
    from alignxplore_trl.reporting.tables import accuracy_table, difference_table

    summaries = {}
    for seed in config.seeds:
        paths = [f"paths.outputs={config.paths.outputs}", f"paths.assets={config.paths.assets}"]
        common = [f"SCALE={config.scale.name}", f"SEED={seed}"]
        arguments = f"ARGS={' '.join([*paths, *config.overrides])}"
        _make("rl", "SIGNALS=4", *common, arguments)
        _make("rl", "SIGNALS=8", *common, arguments)
        # What verification is worth: as many examples, drawn whatever the judge said of them.
        for setting in ("base", "streaming"):
            _make("cold-start", f"SETTING={setting}", *common, f"{arguments} examples=unverified")
        # Last, because it ends in the evaluation of everything that is trained.
        _make("rl-streaming", *common, arguments)
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
    before, rest = README.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    write_text_atomic(README, f"{before}{MARKERS[0]}\n{tables}\n{MARKERS[1]}{after}")
    folder.finish({"seeds": len(config.seeds)})


def _make(*arguments: str) -> None:
    # Under make, its own variables and flags would reach this one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if subprocess.run(["make", *arguments], env=own).returncode:
        raise UserError(f"make {' '.join(arguments)}: ended with an error, told above")


if __name__ == "__main__":
    run_recipe(ResultsConfig, main, sys.argv[1:])

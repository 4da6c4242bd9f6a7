"""What a judge is worth: its answers about validation users, told the truth and told nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("judge_report")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Ask the judge of training, and print what came of it."""
    from alignxplore_trl.cases import read_cases
    from alignxplore_trl.evaluation.judge_quality import judge_quality

    judge, cases = stage.build("judge"), read_cases(stage.read("data") / "validation.jsonl")
    found = judge_quality(judge, cases)
    sys.stdout.write(found.drop(columns="p").to_string(index=False, float_format="%.3f") + "\n")
    figures = {f"{row['method']}/{row['metric']}": row for row in found.to_dict("records")}
    ends = ("value", "low", "high", "n", "unanswered")
    return {f"{name}/{end}": row[end] for name, row in figures.items() for end in ends}


if __name__ == "__main__":
    main()

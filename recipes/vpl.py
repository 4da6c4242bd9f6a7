"""VPL, trained on the RL users: a method that judges by itself, to compare with."""

from collections.abc import Mapping

from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe


@recipe("vpl")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Embed the users' pairs once, train, and save; an interrupted run starts anew."""
    from alignxplore_trl.cases import read_cases

    data = stage.read("data")
    cases, validation = (read_cases(data / f"{split}.jsonl") for split in ("rl", "validation"))
    training = stage.build("vpl")
    return dict(training.train(cases, validation, stage.folder.model))


if __name__ == "__main__":
    main()

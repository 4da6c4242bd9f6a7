"""A page to try a model on: a visitor chooses between replies and watches a description form."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from alignxplore_trl.cases import Comparison, read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say


@recipe("demo")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Serve the page until Ctrl-C."""
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.demo import Demo, serve
    from alignxplore_trl.inference.describer import PreferenceDescriber

    asked, cases = experiment.demo, read_cases(stage.read("data") / "test.jsonl")
    shown = [s for case in cases for s in case.signals if isinstance(s, Comparison)]
    draw = Random(experiment.seed)  # Where a reply stands doesn't say whether anybody chose it.
    pairs = [pair if draw.random() < 0.5 else pair.reversed() for pair in shown]
    if not pairs:
        raise UserError("data: no comparisons found among the test users, which a visitor needs")
    trained = stage.find("rl") or stage.find("cold_start")
    model = asked["model"] or (str(trained / "model") if trained else experiment.model.teacher)
    here = asked["model"] or trained
    about = model if here else f"{model}: make rl-streaming trains another one"
    describer = PreferenceDescriber.from_pretrained(model, seed=experiment.seed)
    demo = Demo(pairs, describer)
    page, address = serve(demo, about, asked["host"], asked["port"])
    say(f"demo: described by {about}\ndemo: {address} shows the page; Ctrl-C ends it")
    page.block_thread()
    return {}


if __name__ == "__main__":
    main()

"""A page: a visitor chooses between replies, and watches a description form."""

import sys
from pathlib import Path
from threading import Event

from alignxplore_trl.launch.config import DemoConfig, WorldData
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.serving import check_port
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say


def main(config: DemoConfig, folder: RunFolder) -> None:
    """Serve the page until Ctrl-C."""
    asked = config.demo
    check_port(asked.host, asked.port, "demo.port")
    # Imported here, so that a mistake in the command line is answered at once.
    from alignxplore_trl.data.world import World
    from alignxplore_trl.demo.models import DemoModels
    from alignxplore_trl.demo.page import build_page, served
    from alignxplore_trl.demo.pairs import pairs_of, read_comparisons, world_comparisons
    from alignxplore_trl.demo.rounds import Rounds
    from alignxplore_trl.launch.demo import load_describer, load_replies, models_in_words

    if asked.pairs is None:
        data = config.data
        assert isinstance(data, WorldData)
        world = World(
            config.seed, data.dimensions_per_user, data.signals_per_user, data.signal_kind
        )
        comparisons = world_comparisons(world, data.counts["test"])
    else:
        comparisons = read_comparisons(Path(asked.pairs))
    rounds = Rounds(pairs_of(comparisons, config.seed), config.setting.signals)
    about = models_in_words(config)
    say(f"demo: {about}")
    models = DemoModels(load_describer(config), load_replies(config))
    with served(build_page(rounds, models, about), asked.host, asked.port) as address:
        say(f"demo: {address} shows the page; Ctrl-C stops it")
        try:
            Event().wait()
        except KeyboardInterrupt:
            say("demo: stopped")


if __name__ == "__main__":
    run_recipe(DemoConfig, main, sys.argv[1:])

"""The teacher's descriptions of the cold-start users, kept where the reward is 1."""

import sys

from alignxplore_trl.launch.config import ReleaseData, SynthesizeConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say


def main(config: SynthesizeConfig, folder: RunFolder) -> None:
    """Sample candidates, verify them with the judge, write examples.parquet and a card."""
    # Imported here, so that a mistake in the command line is answered at once.
    import pandas as pd

    from alignxplore_trl.data.release import published_examples
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.launch.hub import push
    from alignxplore_trl.launch.synthesis import facts_of, load_synthesis, threshold_of
    from alignxplore_trl.reporting.synthesis_card import write_synthesis_card
    from alignxplore_trl.synthesis.selection import (
        count_kept,
        draw_unverified,
        keep_verified,
        outcomes_in_words,
    )

    prepared = upstream_folder(config, "prepare")
    if isinstance(config.data, ReleaseData):
        # The teacher's work, verified and published: there is nothing to write or to judge.
        published = published_examples(prepared)
        pd.DataFrame(published).to_parquet(folder.path / "examples.parquet")
        folder.finish({"examples": len(published), "examples/published": len(published)})
        return

    asked = config.synthesis
    cases = read_split(prepared, "cold_start")[: asked.limit]
    synthesis = load_synthesis(config)
    synthesis.run(cases)
    candidates = keep_verified(
        synthesis.candidates,
        keep=asked.keep_per_prompt,
        rule=asked.keep,
        mix=asked.mix,
        seed=config.seed,
    )
    rows = pd.DataFrame([candidate.row() for candidate in candidates])
    folder.completions.mkdir(exist_ok=True)
    rows.to_parquet(folder.completions / "candidates.parquet")
    examples = [candidate.example() for candidate in candidates if candidate.kept]
    summary = {"cases": len(cases), "examples": len(examples), **synthesis.figures()}
    summary |= count_kept(candidates)
    write_synthesis_card(folder.path, rows, facts_of(config), summary, threshold_of(config))
    say(f"synthesize: {outcomes_in_words(candidates)}; {len(examples)} kept")
    if summary["not_asked"]:
        say(
            f"synthesize: {summary['cost']:.4g} of synthesis.budget={asked.budget} is spent, and "
            f"{summary['not_asked']} completions weren't asked for; with a larger budget, those are"
        )
    if not examples:
        raise UserError(
            f"synthesis: nothing to train on: {outcomes_in_words(candidates)}, for {len(cases)} "
            f"cases; {folder.path / 'card.md'} says more"
        )
    pd.DataFrame(examples).to_parquet(folder.path / "examples.parquet")
    unverified = [each.example() for each in draw_unverified(candidates, config.seed)]
    pd.DataFrame(unverified).to_parquet(folder.path / "unverified.parquet")
    if asked.push_to_hub is not None:
        shown = [folder.path / "examples.parquet", *folder.path.glob("*.png")]
        files = {"README.md": folder.path / "card.md", **{path.name: path for path in shown}}
        url = push("synthesis.push_to_hub", "dataset", asked.push_to_hub, files)
        say(f"synthesize: pushed to {url}")
    folder.finish(summary)


if __name__ == "__main__":
    run_recipe(SynthesizeConfig, main, sys.argv[1:])

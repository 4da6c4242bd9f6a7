"""The teacher's descriptions of the cold-start users, kept where the reward is 1."""

import sys

from alignxplore_trl.launch.config import ReleaseData, SynthesizeConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say


def main(config: SynthesizeConfig, folder: RunFolder) -> None:
    """Sample candidates, verify them with the judge, write examples.parquet."""
    # Imported here, so that a mistake in the command line is answered at once.
    import pandas as pd

    from alignxplore_trl.data.release import published_examples
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.launch.models import load_describer, load_judge
    from alignxplore_trl.synthesis.candidates import SynthesisSettings, synthesize
    from alignxplore_trl.text.rendering import PromptSet

    if isinstance(config.data, ReleaseData):
        # The teacher's work, verified and published: there is nothing to write or to judge.
        published = published_examples(upstream_folder(config, "prepare"))
        pd.DataFrame(published).to_parquet(folder.path / "examples.parquet")
        folder.finish({"examples": len(published), "examples/published": len(published)})
        return

    asked = config.synthesis
    cases = read_split(upstream_folder(config, "prepare"), "cold_start")
    prompts = PromptSet(config.prompts.folder)
    # The judge first: a server that doesn't answer is found before the teacher is loaded.
    judge = load_judge(config.judge.model, prompts, config.judge, config.seed)
    teacher = load_describer(config.model.teacher, prompts, config, asked)
    candidates, counts = synthesize(
        teacher,
        judge,
        cases,
        SynthesisSettings(
            candidates=asked.candidates,
            keep=asked.keep_per_prompt,
            per_round=config.setting.signals,
            rounds=config.setting.rounds,
            order=config.judge.order,
            seed=config.seed,
        ),
        report=lambda done: say(f"round {done} of {config.setting.rounds} is written and judged"),
    )
    folder.completions.mkdir(exist_ok=True)
    pd.DataFrame([candidate.row() for candidate in candidates]).to_parquet(
        folder.completions / "candidates.parquet"
    )
    examples = [candidate.example() for candidate in candidates if candidate.kept]
    if not examples:
        raise UserError(
            f"model.teacher: none of the {len(candidates)} candidates of {config.model.teacher} "
            f"has reward 1 ({counts}); look at {folder.completions}, and choose another teacher or "
            "judge"
        )
    pd.DataFrame(examples).to_parquet(folder.path / "examples.parquet")
    folder.finish({"cases": len(cases), "examples": len(examples), **counts})


if __name__ == "__main__":
    run_recipe(SynthesizeConfig, main, sys.argv[1:])

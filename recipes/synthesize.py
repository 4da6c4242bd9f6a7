"""The teacher's descriptions of the cold-start users, kept where the reward is 1."""

import sys

from alignxplore_trl.launch.config import SynthesizeConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say


def main(config: SynthesizeConfig, folder: RunFolder) -> None:
    """Sample candidates, verify them with the judge, write examples.parquet."""
    # Imported here, so that a mistake in the command line is answered at once.
    import pandas as pd
    from accelerate import PartialState

    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.inference.describing import Describer, SamplingSettings
    from alignxplore_trl.judging.local import LocalJudge
    from alignxplore_trl.synthesis.candidates import SynthesisSettings, synthesize
    from alignxplore_trl.text.rendering import PromptSet

    model, judge_settings, asked = config.model, config.judge, config.synthesis
    cases = read_split(upstream_folder(config, "prepare"), "cold_start")
    prompts = PromptSet(config.prompts.folder)
    device = PartialState().device
    teacher = Describer.from_folder(
        model.teacher,
        prompts,
        dtype=model.dtype,
        device=device,
        sampling=SamplingSettings(
            model.max_completion_tokens, asked.temperature, asked.top_p, asked.top_k
        ),
        max_prompt_tokens=config.prompts.max_prompt_tokens,
        batch_size=asked.batch_size,
    )
    judge = LocalJudge.from_folder(
        judge_settings.model,
        prompts,
        dtype=judge_settings.dtype,
        device=device,
        max_batch_tokens=judge_settings.max_batch_tokens,
        minimum_label_mass=judge_settings.minimum_label_mass,
        chat=judge_settings.chat,
    )
    candidates, counts = synthesize(
        teacher,
        judge,
        cases,
        SynthesisSettings(
            candidates=asked.candidates,
            keep=asked.keep_per_prompt,
            per_round=config.setting.signals,
            rounds=config.setting.rounds,
            order=judge_settings.order,
            seed=config.seed,
        ),
        report=lambda done: say(f"round {done} of {config.setting.rounds} is written and judged"),
    )
    folder.completions.mkdir(exist_ok=True)
    rows = [
        {**vars(candidate), "outcome": type(candidate.outcome).__name__} for candidate in candidates
    ]
    pd.DataFrame(rows).to_parquet(folder.completions / "candidates.parquet")
    examples = [candidate.example() for candidate in candidates if candidate.kept]
    if not examples:
        raise UserError(
            f"model.teacher: none of {len(candidates)} candidates of {model.teacher} has reward 1 "
            f"({counts}); look at {folder.completions}, and choose another teacher or judge"
        )
    pd.DataFrame(examples).to_parquet(folder.path / "examples.parquet")
    folder.finish({"cases": len(cases), "examples": len(examples), **counts})


if __name__ == "__main__":
    run_recipe(SynthesizeConfig, main, sys.argv[1:])

"""The teacher's completions for the cold-start users, kept where the reward is 1."""

from __future__ import annotations

from collections.abc import Mapping

from alignxplore_trl.cases import read_cases, write_lines
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say


@recipe("synthesis")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Write examples.jsonl, and unverified.jsonl, a control of the same size."""
    # Imported here, so that a mistake in the command line is answered at once.
    import shutil

    from alignxplore_trl.judging.weights import load_tokenizer
    from alignxplore_trl.synthesis.candidates import Synthesis, draw_unverified
    from alignxplore_trl.synthesis.kept import Kept
    from alignxplore_trl.text.budget import PromptBudget
    from alignxplore_trl.text.completions import tags_survive
    from alignxplore_trl.text.prompts import Prompts

    data, folder, asked = stage.read("data"), stage.folder.path, experiment.synthesis
    if (published := data / "examples.jsonl").is_file():
        # The teacher's work, verified and published: there is nothing to write or to judge.
        shutil.copy(published, folder / "examples.jsonl")
        return {"examples": published.read_bytes().count(b"\n")}

    student = load_tokenizer(experiment.model.backbone)
    if lost := tags_survive(student):
        raise UserError([f"{experiment.model.backbone}: {problem}" for problem in lost])
    cases = read_cases(data / "cold_start.jsonl")[: asked["cases"]]
    reward, teacher = stage.build("synthesis.verification"), stage.build("teacher")
    if hasattr(reward, "load"):
        reward.load()
    synthesis = Synthesis(
        teacher,
        reward,
        PromptBudget(Prompts(experiment.prompts.folder), student, experiment.prompts.max_tokens),
        Kept(folder / "answers.jsonl"),
        candidates=asked["candidates"],
        dimensions=asked["dimensions"],
        signals=experiment.setting.signals,
        rounds=experiment.setting.rounds,
        seed=experiment.seed,
    )
    candidates = synthesis.run(cases)
    verified = [candidate for candidate in candidates if candidate.reward == 1]
    control = draw_unverified(candidates, experiment.seed)
    write_lines(folder / "candidates.jsonl", (candidate.row() for candidate in candidates))
    write_lines(folder / "examples.jsonl", (candidate.example() for candidate in verified))
    write_lines(folder / "unverified.jsonl", (candidate.example() for candidate in control))
    unanswered = {f"unanswered/{reason}": count for reason, count in teacher.counts.items()}
    counts = {"cases": len(cases), "examples": len(verified), **synthesis.counts, **unanswered}
    if not verified:
        raise UserError(f"synthesis: no candidate has reward 1, so there is no example: {counts}")
    say(f"synthesize: {len(verified)} of {len(candidates)} candidates are verified")
    return counts


if __name__ == "__main__":
    main()

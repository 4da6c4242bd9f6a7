"""Cases as the models read them, in the terminal and as a page; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignxplore_trl.cases import Signal, read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, fit_prompt

if TYPE_CHECKING:
    from alignxplore_trl.reporting.inspection import Inspected

# Of published data, what the stages read whole.
_PUBLISHED = {"cold_start": "examples", "rl": "rounds"}


@recipe("inspect_cases")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Show the first cases of a split, and what is trained on where that is known."""
    # Imported here, so that a mistake in the command line is answered at once.
    from rich.console import Console

    from alignxplore_trl.reporting.inspection import render_terminal
    from alignxplore_trl.reporting.pages import render_page
    from alignxplore_trl.run.folder import write_text

    asked = experiment.inspection
    try:
        found = list(islice(_inspected(experiment, stage), asked.cases))
    except PromptTooLongError as error:
        raise UserError(f"prompts.max_tokens: {error}; raise it") from error
    render_terminal(Console(highlight=False), found)
    if asked.html is not None:
        title = f"{experiment.run}, {asked.split}"
        write_text(Path(asked.html), render_page("inspection.html.jinja", cases=found, title=title))
    return {"cases": len(found)}


def _inspected(experiment: Experiment, stage: Stage) -> Iterator[Inspected]:
    from transformers import AutoTokenizer

    from alignxplore_trl.reporting.inspection import inspect_case, inspect_example
    from alignxplore_trl.text.prompts import Prompts

    split, asked, setting = experiment.inspection.split, experiment.prompts, experiment.setting
    prompts = Prompts(asked.folder)
    tokenizer = AutoTokenizer.from_pretrained(experiment.model.backbone)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    def render(signals: Sequence[Signal], earlier: str | None) -> str:
        return prompts.render("inference", signals=signals, earlier=earlier)

    def fit(signals: Sequence[Signal], earlier: str | None) -> FittedPrompt:
        return fit_prompt(render, signals, earlier, count_tokens, asked.max_tokens)

    data, synthesis = stage.read("data"), stage.find("synthesis")
    published = _rows(data / f"{_PUBLISHED.get(split)}.jsonl")
    for number, row in enumerate(published, 1):
        yield inspect_example(
            f"published {number}", (row["prompt"], row.get("completion")), count_tokens
        )
    examples = {
        (row["case_id"], row["round"]): (row["prompt"], row["completion"])
        for row in (_rows(synthesis / "examples.jsonl") if synthesis and not published else [])
    }
    file = data / f"{split}.jsonl"
    if not file.is_file() and not published:
        raise UserError(
            f"inspection.split: {split} found, expected one of "
            f"{', '.join(sorted(own.stem for own in data.glob('*.jsonl')))}"
        )
    for case in read_cases(file) if file.is_file() else []:
        rounds = case.rounds(setting.signals, setting.rounds)
        yield inspect_case(case, rounds, fit, count_tokens, examples)


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()

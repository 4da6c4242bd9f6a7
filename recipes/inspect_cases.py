"""Cases as the models read them, in the terminal and as a page; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from alignxplore_trl.cases import read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import PromptBudget

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
    found = list(islice(_inspected(experiment, stage), asked["cases"]))
    render_terminal(Console(highlight=False), found)
    if asked["html"] is not None:
        title = f"{experiment.run}, {asked['split']}"
        write_text(
            Path(asked["html"]), render_page("inspection.html.jinja", cases=found, title=title)
        )
    return {"cases": len(found)}


def _inspected(experiment: Experiment, stage: Stage) -> Iterator[Inspected]:
    from transformers import AutoTokenizer

    from alignxplore_trl.reporting.inspection import inspect_case, inspect_example
    from alignxplore_trl.text.prompts import Prompts

    split, asked, setting = experiment.inspection["split"], experiment.prompts, experiment.setting
    tokenizer = AutoTokenizer.from_pretrained(experiment.model.backbone)
    budget = PromptBudget(Prompts(asked.folder), tokenizer, asked.max_tokens)
    data, synthesis = stage.read("data"), stage.find("synthesis")
    published = _rows(data / f"{_PUBLISHED.get(split)}.jsonl")
    for number, row in enumerate(published, 1):
        example = row["prompt"], row.get("completion")
        yield inspect_example(f"published {number}", example, budget)
    learned = _rows(synthesis / "examples.jsonl") if synthesis and not published else []
    examples = {(r["case_id"], r["round"]): (r["prompt"], r["completion"]) for r in learned}
    file = data / f"{split}.jsonl"
    if not file.is_file() and not published:
        known = ", ".join(sorted(own.stem for own in data.glob("*.jsonl")))
        raise UserError(f"inspection.split: {split} found, expected one of {known}")
    for case in read_cases(file) if file.is_file() else []:
        rounds = case.rounds(setting.signals, setting.rounds)
        yield inspect_case(case, rounds, budget, examples)


def _rows(path: Path) -> list[dict[str, Any]]:
    return msgspec.json.Decoder().decode_lines(path.read_bytes()) if path.is_file() else []


if __name__ == "__main__":
    main()

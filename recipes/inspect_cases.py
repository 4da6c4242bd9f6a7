"""Cases as the models read them, in the terminal and as a page; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignxplore_trl.cases import read_cases
from alignxplore_trl.config import Experiment
from alignxplore_trl.recipe import Stage, recipe

if TYPE_CHECKING:
    from alignxplore_trl.reporting.inspection import Inspected


@recipe("inspect_cases")
def main(experiment: Experiment, stage: Stage) -> Mapping[str, object]:
    """Show the first cases of a split, and what is trained on where that is known."""
    # Imported here, so that a mistake in the command line is answered at once.
    from rich.console import Console

    from alignxplore_trl.reporting.inspection import render_html, render_terminal
    from alignxplore_trl.run.errors import UserError
    from alignxplore_trl.run.folder import write_text
    from alignxplore_trl.text.budget import PromptTooLongError

    asked = experiment.inspection
    try:
        found = list(islice(_inspected(experiment, stage), asked.cases))
    except PromptTooLongError as error:
        raise UserError(f"prompts.max_tokens: {error}; raise it") from error
    render_terminal(Console(highlight=False), found)
    if asked.html is not None:
        write_text(Path(asked.html), render_html(found, f"{experiment.run}, {asked.split}"))
    return {"cases": len(found)}


def _inspected(experiment: Experiment, stage: Stage) -> Iterator[Inspected]:
    from transformers import AutoTokenizer

    from alignxplore_trl.reporting.inspection import Example, inspect_case, inspect_example
    from alignxplore_trl.text.prompts import Prompts

    tokenizer = AutoTokenizer.from_pretrained(experiment.model.backbone)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    data, synthesis = stage.read("data"), stage.find("synthesis")
    published = (
        _lines(data / "examples.jsonl") if experiment.inspection.split == "cold_start" else []
    )
    for number, row in enumerate(published, 1):
        yield inspect_example(number, Example(row["prompt"], row["completion"]), count_tokens)
    examples = {
        (row["case_id"], row["round"]): Example(row["prompt"], row["completion"])
        for row in (_lines(synthesis / "examples.jsonl") if synthesis else [])
    }
    prompts, setting = Prompts(experiment.prompts.folder), experiment.setting
    for case in read_cases(data / f"{experiment.inspection.split}.jsonl"):
        yield inspect_case(
            case, signals=setting.signals, rounds=setting.rounds, prompts=prompts,
            max_tokens=experiment.prompts.max_tokens, count_tokens=count_tokens, examples=examples,
        )  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main()

"""Cases as the models read them, in the terminal and as a page: no model is loaded."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alignxplore_trl.launch.config import InspectDataConfig, ReleaseData
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say

if TYPE_CHECKING:
    from alignxplore_trl.reporting.inspection import InspectedCase


def main(config: InspectDataConfig, folder: RunFolder) -> None:
    """Show the first cases of a split, with their synthesised examples where there are some."""
    # Imported here, so that a mistake in the command line is answered at once.
    from rich.console import Console

    from alignxplore_trl.reporting.inspection import render_page, render_terminal
    from alignxplore_trl.text.budget import PromptTooLongError

    asked = config.inspection
    is_published = isinstance(config.data, ReleaseData) and asked.split != "test"
    try:
        inspected = list(
            itertools.islice((published if is_published else cases)(config), asked.cases)
        )
    except PromptTooLongError as error:
        raise UserError(f"prompts.max_prompt_tokens: {error}; raise the budget") from error
    if not inspected:
        raise UserError(
            f"inspection.split: {asked.split} found, which has nothing in "
            f"{upstream_folder(config, 'prepare')}; its summary.json says what was left out"
        )
    render_terminal(Console(highlight=False), inspected)
    if asked.html is not None:
        title = f"{config.data.name}, {asked.split}, {config.setting.name}"
        write_text_atomic(Path(asked.html), render_page(inspected, title))
        say(f"inspect_data: wrote {asked.html}")


def cases(config: InspectDataConfig) -> Iterator["InspectedCase"]:
    """The cases of a split, one by one."""
    from transformers import AutoTokenizer

    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.reporting.inspection import inspect_case, read_examples
    from alignxplore_trl.text.rendering import PromptSet

    examples = {}
    if config.upstream["synthesize"] is not None and not isinstance(config.data, ReleaseData):
        synthesized = upstream_folder(config, "synthesize")
        examples = read_examples(synthesized / "completions" / "candidates.parquet")
    prompts = PromptSet(config.prompts.folder)
    tokenizer = AutoTokenizer.from_pretrained(config.model.backbone)
    for case in read_split(upstream_folder(config, "prepare"), config.inspection.split):
        yield inspect_case(
            case,
            per_round=config.setting.signals,
            rounds=config.setting.rounds,
            prompts=prompts,
            tokenizer=tokenizer,
            max_prompt_tokens=config.prompts.max_prompt_tokens,
            examples=examples,
        )


def published(config: InspectDataConfig) -> Iterator["InspectedCase"]:
    """The published examples of the cold start, or the published rows of RL, one by one."""
    from transformers import AutoTokenizer

    from alignxplore_trl.data.release import (
        PublishedPrompts,
        published_examples,
        published_rounds,
    )
    from alignxplore_trl.reporting.inspection import (
        inspect_published_case,
        inspect_published_example,
    )
    from alignxplore_trl.text.rendering import PromptSet

    prepared = upstream_folder(config, "prepare")
    tokenizer = AutoTokenizer.from_pretrained(config.model.backbone)
    if config.inspection.split == "cold_start":
        for number, example in enumerate(published_examples(prepared), 1):
            yield inspect_published_example(number, example, tokenizer)
        return
    prompts = PublishedPrompts(
        PromptSet(config.prompts.folder),
        lambda text: len(tokenizer(text).input_ids),
        config.prompts.max_prompt_tokens,
    )
    rounds = itertools.groupby(published_rounds(prepared), key=lambda row: row.case_id)
    for _, rows in rounds:
        yield inspect_published_case(list(rows), prompts.fit, tokenizer)


if __name__ == "__main__":
    run_recipe(InspectDataConfig, main, sys.argv[1:])

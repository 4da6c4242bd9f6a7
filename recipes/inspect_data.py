"""Cases as the models read them, in the terminal and as a page: no model is loaded."""

import sys
from pathlib import Path

from alignxplore_trl.launch.config import InspectDataConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder, write_text_atomic
from alignxplore_trl.run.progress import say


def main(config: InspectDataConfig, folder: RunFolder) -> None:
    """Show the first cases of a split, with their synthesised examples where there are some."""
    # Imported here, so that a mistake in the command line is answered at once.
    from rich.console import Console
    from transformers import AutoTokenizer

    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.reporting.inspection import (
        inspect_case,
        read_examples,
        render_page,
        render_terminal,
    )
    from alignxplore_trl.text.budget import PromptTooLongError
    from alignxplore_trl.text.rendering import PromptSet

    asked, setting = config.inspection, config.setting
    cases = read_split(upstream_folder(config, "prepare"), asked.split)
    examples = {}
    if config.upstream["synthesize"] is not None:
        synthesized = upstream_folder(config, "synthesize")
        examples = read_examples(synthesized / "completions" / "candidates.parquet")
    prompts = PromptSet(config.prompts.folder)
    tokenizer = AutoTokenizer.from_pretrained(config.model.backbone)
    try:
        inspected = [
            inspect_case(
                case,
                per_round=setting.signals,
                rounds=setting.rounds,
                prompts=prompts,
                tokenizer=tokenizer,
                max_prompt_tokens=config.prompts.max_prompt_tokens,
                examples=examples,
            )
            for case in cases[: asked.cases]
        ]
    except PromptTooLongError as error:
        raise UserError(f"prompts.max_prompt_tokens: {error}; raise the budget") from error
    render_terminal(Console(highlight=False), inspected)
    if asked.html is not None:
        title = f"{config.data.name}, {asked.split}, {setting.name}"
        write_text_atomic(Path(asked.html), render_page(inspected, title))
        say(f"inspect_data: wrote {asked.html}")


if __name__ == "__main__":
    run_recipe(InspectDataConfig, main, sys.argv[1:])

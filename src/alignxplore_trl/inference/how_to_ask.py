"""How a trained model is asked for descriptions, as its folder says it beside the weights.

A prompt of other words is another task for a small model, so that the templates go with it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import GenerationConfig

from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_json_atomic
from alignxplore_trl.text.rendering import PromptSet

SETTINGS_FILE = "describer.json"
PROMPTS_FOLDER = "prompts"
_SAMPLING_FILE = "generation_config.json"


@dataclass(frozen=True)
class PromptSettings:
    """What a model's prompts were in training.

    Attributes:
        max_prompt_tokens: the budget that prompts are shortened to.
        signals_per_round: signals that it reads at once.
        rounds: after how many updates training ended; 1 of a model that was never shown an earlier
            description.
    """

    max_prompt_tokens: int
    signals_per_round: int
    rounds: int


@dataclass(frozen=True)
class HowToAsk:
    """All that a folder says of how its model is asked."""

    prompts: PromptSet
    settings: PromptSettings
    sampling: SamplingSettings


def save_how_to_ask(folder: Path, prompts: PromptSet, settings: PromptSettings) -> None:
    """Put templates and settings beside a model; its generation_config.json holds the sampling."""
    templates = folder / PROMPTS_FOLDER
    templates.mkdir(exist_ok=True)
    for file in sorted(prompts.folder.glob("*.jinja")):
        shutil.copyfile(file, templates / file.name)
    write_json_atomic(folder / SETTINGS_FILE, asdict(settings))


def read_how_to_ask(source: str | Path) -> HowToAsk:
    """What is known of a model: a folder, or owner/name on the Hub.

    Raises:
        UserError: it isn't there, or its folder says nothing of how it is asked.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    missing = [name for name in (SETTINGS_FILE, PROMPTS_FOLDER, _SAMPLING_FILE)
               if not (folder / name).exists()]  # fmt: skip
    if missing:
        raise UserError(
            f"{source}: it has no {', no '.join(missing)}, expected a model that make cold-start "
            "or make rl has saved (the folder model/ of a run)"
        )
    try:
        settings = PromptSettings(**json.loads((folder / SETTINGS_FILE).read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS_FILE}: can't be read: {error}") from error
    generation = GenerationConfig.from_pretrained(folder)
    sampling = SamplingSettings(
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature if generation.do_sample else 0.0,
        top_p=generation.top_p if generation.do_sample else 1.0,
        top_k=(generation.top_k or None) if generation.do_sample else None,
    )
    return HowToAsk(PromptSet(folder / PROMPTS_FOLDER), settings, sampling)


def _download(name: str) -> Path:
    wanted = [SETTINGS_FILE, _SAMPLING_FILE, f"{PROMPTS_FOLDER}/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError:
        raise UserError(f"{name}: found no such folder, and it is no name of the Hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: found no such folder, and the Hub says: {reason}") from error

"""How a model is asked for descriptions: `alignxplore.json` beside its weights.

A prompt of other words is another task for a small model, so the templates are kept with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from alignxplore_trl.run.errors import UserError

SETTINGS_FILE = "alignxplore.json"
_COPIED = "prompts"


class Sampling(msgspec.Struct, frozen=True):
    """How descriptions are sampled; the defaults are the method's at inference."""

    max_new_tokens: int
    temperature: float = 0.9
    top_p: float = 0.95
    top_k: int | None = 10


class HowToAsk(msgspec.Struct, frozen=True):
    """What a model was trained to read and how it is sampled.

    Attributes:
        prompts: the prompt folder: one that ships with the project, or a folder beside the weights.
        max_tokens: budget of a prompt, in tokens of this model.
        signals: signals that are read in one round.
        rounds: rounds it was trained on; 1 for a model that never read an earlier description.
        sampling: how its completions are sampled.
    """

    prompts: str
    max_tokens: int
    signals: int
    rounds: int
    sampling: Sampling

    def save(self, model: Path) -> None:
        """Write the file into a model's folder, and the templates of a folder of one's own."""
        if (templates := Path(self.prompts)).is_dir():
            shutil.copytree(templates, model / _COPIED, dirs_exist_ok=True)
            self = msgspec.structs.replace(self, prompts=_COPIED)
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        (model / SETTINGS_FILE).write_bytes(text + b"\n")

    @classmethod
    def read(cls, model: str | Path) -> HowToAsk:
        """What a model says of itself: a folder, or owner/name on the Hub.

        Raises:
            UserError: there is no such model, or it doesn't say how it is asked.
        """
        folder = Path(model) if Path(model).is_dir() else _download(str(model))
        file = folder / SETTINGS_FILE
        if not file.is_file():
            raise UserError(
                f"{model}: found no {SETTINGS_FILE}, expected a model that `make cold-start` or "
                "`make rl` has saved, such as outputs/<run>/rl/model"
            )
        try:
            asked = msgspec.json.decode(file.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise UserError(
                f"{file}: {error}; copy it from the run that trained the model"
            ) from error
        beside = folder / asked.prompts
        return msgspec.structs.replace(asked, prompts=str(beside)) if beside.is_dir() else asked


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[SETTINGS_FILE, f"{_COPIED}/*"]))
    except HFValidationError:
        raise UserError(f"{name}: found no such folder, and the Hub has no such name") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: found no such folder, and the Hub says: {reason}") from error

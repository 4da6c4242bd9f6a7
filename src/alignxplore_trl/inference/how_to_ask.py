"""How a model is asked for descriptions: `alignxplore.json` beside its weights.

A prompt of other words is another task for a small model, so the templates are kept with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from alignxplore_trl.run.errors import UserError

SETTINGS_FILE = "alignxplore.json"


class Sampling(msgspec.Struct, frozen=True):
    """How descriptions are sampled; the defaults are the method's at inference."""

    max_new_tokens: int
    temperature: float = 0.9
    top_p: float = 0.95
    top_k: int | None = 10


class HowToAsk(msgspec.Struct, frozen=True):
    """What a model was trained to read, and how it is sampled.

    Attributes:
        prompts: the prompt folder: one that ships with the project, or a folder beside the weights.
        max_tokens: budget of a prompt, in tokens of this model.
        signals: signals that are read in one round.
        rounds: rounds it was trained on; 1 for a model that never read an earlier description.
        sampling: how its descriptions are sampled.
    """

    prompts: str
    max_tokens: int
    signals: int
    rounds: int
    sampling: Sampling

    def save(self, model: Path) -> None:
        """Write the file into a model's folder, and beside it templates that don't ship."""
        if (templates := Path(self.prompts)).is_dir():
            shutil.copytree(templates, model / "prompts", dirs_exist_ok=True)
            self = msgspec.structs.replace(self, prompts="prompts")
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        (model / SETTINGS_FILE).write_bytes(text + b"\n")

    @classmethod
    def read(cls, model: str | Path) -> HowToAsk:
        """What a model says of itself: a folder, or owner/name on the Hub.

        Raises:
            UserError: there is no such model, or it doesn't say how it is asked.
        """
        try:
            wanted = [SETTINGS_FILE, "prompts/*"]
            is_here = Path(model).is_dir()
            folder = model if is_here else snapshot_download(str(model), allow_patterns=wanted)
            asked = msgspec.json.decode((Path(folder) / SETTINGS_FILE).read_bytes(), type=cls)
        except (HFValidationError, HfHubHTTPError, OSError, msgspec.DecodeError) as error:
            raise UserError(
                f"{model}: {' '.join(str(error).split())}; expected a model that `make cold-start` "
                "or `make rl` has saved, such as outputs/<run>/rl/model, or its name on the Hub"
            ) from error
        beside = Path(folder) / asked.prompts
        return msgspec.structs.replace(asked, prompts=str(beside)) if beside.is_dir() else asked

"""The trained model in use: describes users, and updates descriptions as signals arrive."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from huggingface_hub import snapshot_download

from alignxplore_trl.cases import Signal
from alignxplore_trl.inference.writers import Writer, Written, open_writer
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget, PromptTooLongError
from alignxplore_trl.text.completions import FormatProblem, parse_completion
from alignxplore_trl.text.prompts import Prompts

SETTINGS_FILE = "alignxplore.json"


class Sampling(msgspec.Struct, frozen=True):
    """How descriptions are sampled; the defaults are the method's at inference."""

    max_new_tokens: int
    temperature: float = 0.9
    top_p: float = 0.95
    top_k: int | None = 10


class HowToAsk(msgspec.Struct, frozen=True):
    """What a model was trained to read, and how it is sampled: `alignxplore.json` in its folder.

    `prompts` is a prompt folder that ships with the project, or one beside the weights: a prompt of
    other words is another task for a small model. `max_tokens` is the budget of a prompt.
    """

    prompts: str
    max_tokens: int
    signals: int  # In one round.
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
        """What a model, a folder or owner/name on the Hub, says of itself; or a UserError."""
        try:
            wanted = [SETTINGS_FILE, "prompts/*"]
            is_here = Path(model).is_dir()
            folder = model if is_here else snapshot_download(str(model), allow_patterns=wanted)
            asked = msgspec.json.decode((Path(folder) / SETTINGS_FILE).read_bytes(), type=cls)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{model}: {' '.join(str(error).split())}; expected a model that `make cold-start` "
                "or `make rl` has saved, such as outputs/<run>/rl/model, or its name on the Hub"
            ) from error
        beside = Path(folder) / asked.prompts
        return msgspec.structs.replace(asked, prompts=str(beside)) if beside.is_dir() else asked


class Description(msgspec.Struct, frozen=True):
    """What a model made of signals; the oldest ones were dropped, and texts shortened, to fit."""

    description: str
    reasoning: str
    model: str
    dropped_signals: int = 0
    shortened_texts: int = 0


class NotDescribedError(UserError):
    """No description came of some signals; the message says why."""


@dataclass
class PreferenceDescriber:
    """Describes users from what they did, and updates descriptions from new signals alone.

    A prompt above the budget is shortened and counted; the model, `name`, read `signals` a round.
    """

    writer: Writer
    budget: PromptBudget
    signals: int
    name: str = ""
    seed: int = 0

    @classmethod
    def from_pretrained(
        cls, model: str | Path, temperature: float | None = None, seed: int = 0, **where: Any
    ) -> PreferenceDescriber:
        """Open a model that this project has trained, with the prompts it was trained on.

        `model` is the folder `model/` of a stage, or owner/name on the Hub. A `temperature` of
        `None` is the model's own. `where` it runs is said as for `open_writer`.
        """
        from alignxplore_trl.judging.weights import load_tokenizer

        asked, name = HowToAsk.read(model), str(model)
        sampling = msgspec.structs.asdict(asked.sampling)
        if temperature is not None:
            sampling["temperature"] = temperature
        writer = open_writer(name, chat=False, **sampling, **where)
        budget = PromptBudget(Prompts(asked.prompts), load_tokenizer(name), asked.max_tokens)
        return cls(writer, budget, asked.signals, name, seed)

    def describe(self, signals: Sequence[Signal], earlier: str | None = None) -> Description:
        """Describe a user of whom nothing is known but these signals.

        Raises:
            NotDescribedError: the completion was malformed, the model gave no answer, or no prompt
                of these signals is short enough.
        """
        [outcome] = self.write([(earlier, signals)])
        if isinstance(outcome, NotDescribedError):
            raise outcome
        return outcome

    def update(self, earlier: str, signals: Sequence[Signal]) -> Description:
        """Update a description from new signals, without those it was made from, as `describe`."""
        return self.describe(signals, earlier)

    def write(
        self, requests: Sequence[tuple[str | None, Sequence[Signal]]]
    ) -> list[Description | NotDescribedError]:
        """What became of each earlier description (or `None`) with new signals, all at once."""
        prompts: list[FittedPrompt | NotDescribedError] = []
        for earlier, signals in requests:
            try:
                prompts.append(self.budget.fit("inference", signals, earlier))
            except PromptTooLongError as error:
                prompts.append(NotDescribedError(str(error)))
        texts = [own.text for own in prompts if isinstance(own, FittedPrompt)]
        answers = iter(self.writer.write(texts, seed=self.seed))
        return [
            self._read(own, *next(answers)) if isinstance(own, FittedPrompt) else own
            for own in prompts
        ]

    def _read(
        self, prompt: FittedPrompt, written: Written | None
    ) -> Description | NotDescribedError:
        if written is None:
            reasons = {name: count for name, count in self.writer.counts.items() if count}
            return NotDescribedError(f"the model gave no answer {reasons}")
        read = parse_completion(written.text)
        if isinstance(read, FormatProblem):
            return NotDescribedError(f"the completion can't be read: {read.value}")
        left_out = (prompt.dropped_signals, prompt.shortened_texts)
        return Description(read.description, read.reasoning, self.name, *left_out)

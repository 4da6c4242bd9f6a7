"""The description that a case brings into its next round of RL."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from alignxplore_trl.text.completions import Inference, parse_completion


class EarlierDescriptions(TrainerCallback, ExportableState):
    """For each case of the last generation batch, the description that its next round starts from.

    Drawn among its well-formed rollouts by a hash of (seed, epoch, case, round), the same on every
    process. A checkpoint keeps it, in `trainer_state.json`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.drawn: dict[str, str | None] = {}

    def draw(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[bool]:
        """Draw for all processes' cases; whether each completion here is the one that was drawn."""
        rank, own = PartialState().process_index, []
        for place, (row, text) in enumerate(zip(rows, completions, strict=True)):
            own.append(((row["epoch"], row["case_id"], row["round"]), (rank, place), text))
        written: dict[Any, list[Any]] = defaultdict(list)
        for key, place, text in gather_object(own):
            outcome, found = parse_completion(text), written[key]
            if isinstance(outcome, Inference):
                found.append((place, outcome.description))
        drawn = {key: self._one_of(found, key) for key, found in written.items()}
        self.drawn = {f"{case}/{number}": one[1] for (_, case, number), one in drawn.items()}
        places = {place for place, _ in drawn.values()}
        return [place in places for _, place, _ in own]

    def _one_of(self, found: list[Any], key: tuple[int, str, int]) -> Any:
        digest = hashlib.sha256(json.dumps([self.seed, *key]).encode()).digest()
        return found[int.from_bytes(digest[:8], "big") % len(found)] if found else (None, None)

    def of(self, row: Mapping[str, Any]) -> str | None:
        """What a row starts from: its case's description of the round before, or none."""
        return self.drawn[f"{row['case_id']}/{row['round'] - 1}"] if row["round"] > 1 else None

    def state(self) -> dict[str, Any]:
        return {"args": {"seed": self.seed}, "attributes": {"drawn": self.drawn}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.drawn = state.stateful_callbacks[type(self).__name__]["attributes"]["drawn"]

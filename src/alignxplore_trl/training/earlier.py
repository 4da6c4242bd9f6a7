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

_Key = tuple[int, str, int]  # Epoch, case and round.
_Place = tuple[int, int]  # Process, and the rollout's number there.


class EarlierDescriptions(TrainerCallback, ExportableState):
    """For each case of the last generation batch, the description that its next round starts from.

    Drawn among its well-formed rollouts by a hash of (seed, epoch, case, round), so that no
    generator's state matters and every process draws the same. A checkpoint keeps it, in
    `trainer_state.json`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.drawn: dict[str, str | None] = {}

    def draw(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[bool]:
        """Draw for the cases of a round that has been written; a collective.

        Args:
            rows: of this process, with `epoch`, `case_id` and `round`.
            completions: of these rows.

        Returns:
            Whether each is the one whose description was drawn.
        """
        rank = PartialState().process_index
        own = [
            ((row["epoch"], row["case_id"], row["round"]), (rank, place), text)
            for place, (row, text) in enumerate(zip(rows, completions, strict=True))
        ]
        written: dict[_Key, list[tuple[_Place, str]]] = defaultdict(list)
        for key, place, text in gather_object(own):
            outcome = parse_completion(text)
            found = written[key]
            if isinstance(outcome, Inference):
                found.append((place, outcome.description))
        drawn = {key: self._choice(key, found) for key, found in written.items()}
        self.drawn = {f"{key[1]}/{key[2]}": one and one[1] for key, one in drawn.items()}
        places = {one[0] for one in drawn.values() if one}
        return [place in places for _, place, _ in own]

    def _choice(self, key: _Key, found: list[tuple[_Place, str]]) -> tuple[_Place, str] | None:
        digest = hashlib.sha256(json.dumps([self.seed, *key]).encode()).digest()
        return found[int.from_bytes(digest[:8], "big") % len(found)] if found else None

    def of(self, row: Mapping[str, Any]) -> str | None:
        """What a row starts from: its case's description of the round before, or none."""
        return self.drawn[f"{row['case_id']}/{row['round'] - 1}"] if row["round"] > 1 else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {"seed": self.seed}, "attributes": {"drawn": self.drawn}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Go on from what the checkpoint has kept."""
        self.drawn = state.stateful_callbacks[type(self).__name__]["attributes"]["drawn"]

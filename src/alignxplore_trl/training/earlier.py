"""The earlier description that a case brings into its next round of streaming RL."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore_trl.text.parsing import Inference, parse_completion

STATE_FILE = "earlier_descriptions.json"


@dataclass(frozen=True)
class Rollout:
    """One sampled completion of a case in a round (counted from 1)."""

    case_id: str
    round: int
    completion: str


class EarlierDescriptions:
    """For each case of the last generation batch, the description its next round starts from.

    It is drawn among the case's well-formed rollouts by a hash of (seed, epoch, case, round): no
    random generator's state matters, and every process draws the same. `None` where no rollout was
    well-formed. Keyed by case, not by user: two cases of one user never see each other's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._round = 0
        self._drawn: dict[str, str | None] = {}

    def record(self, epoch: int, rollouts: Sequence[Rollout]) -> list[bool]:
        """Draw for the cases of a generation batch that has just been scored.

        Args:
            rollouts: all of the batch, of all processes, in the batch's order.

        Returns:
            For each rollout, whether it is the one whose description was drawn.

        Raises:
            RuntimeError: the rollouts are not all of one round.
        """
        rounds = {rollout.round for rollout in rollouts}
        if len(rounds) != 1:
            raise RuntimeError(f"a generation batch holds rounds {sorted(rounds)}, expected one")
        (self._round,) = rounds
        described: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for place, rollout in enumerate(rollouts):
            written = described[rollout.case_id]
            match parse_completion(rollout.completion):
                case Inference(description=description):
                    written.append((place, description))
        self._drawn = {}
        drawn = [False] * len(rollouts)
        for case_id, written in described.items():
            self._drawn[case_id] = None
            if written:
                place, self._drawn[case_id] = written[self._draw(epoch, case_id, len(written))]
                drawn[place] = True
        return drawn

    def before(self, case_id: str, round_number: int) -> str | None:
        """What a case starts a round from: its own earlier description, or `None`.

        Raises:
            RuntimeError: the round before was not the last generation batch, or had other cases.
        """
        if round_number == 1:
            return None
        if self._round != round_number - 1 or case_id not in self._drawn:
            raise RuntimeError(
                f"case {case_id} is in round {round_number}, but the last generation batch was "
                f"round {self._round} of {len(self._drawn)} cases without it in that round"
            )
        return self._drawn[case_id]

    def save(self, folder: Path) -> None:
        """Write what a resume between two rounds needs into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {"round": self._round, "drawn": self._drawn}
        (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        self._round, self._drawn = state["round"], state["drawn"]

    def _draw(self, epoch: int, case_id: str, count: int) -> int:
        key = json.dumps([self.seed, epoch, case_id, self._round])
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return number % count

"""Rewards of completions by TRL's contract: dataset columns in, a number or `None` each out.

A run has one reward callable: beside a second one, TRL would count a missing judgement as 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray

from alignxplore_trl.judging.protocol import Generator, Judge, JudgedPair, Order, preferences
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.completions import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.prompts import Prompts

# Answers that can't be used. The model is there: asking again would bring the same.
_UNUSABLE = ("label_mass", "unreadable", "too_long", "empty")


class DescriptionReward(ABC):
    """A score of the description, times R_format: 0 for a malformed completion.

    It is `None` where the model asked gave no answer, and TRL leaves the row out of its group. A
    UserError ends the run on all processes where one failed, or where more than `outage_share` of a
    batch's well-formed completions, and at least `outage_least`, got no answer; those that can't be
    used don't count.
    """

    __name__: str
    # The name of the number that the reward is made of.
    measured: str

    def __init__(self, asked: Any, outage_share: float, outage_least: int) -> None:
        self.asked, self.outage_share, self.outage_least = asked, outage_share, outage_least

    @abstractmethod
    def measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        """What the reward is made of, for each pair; `None` without an answer."""

    @abstractmethod
    def score(self, number: float) -> float:
        """The reward for what was measured."""

    def load(self) -> None:
        """Bring weights into memory, or try the servers."""
        if hasattr(self.asked, "load"):
            self.asked.load()

    def __call__(
        self,
        *,
        completions: Sequence[str],
        case_id: Sequence[str],
        post: Sequence[str],
        chosen: Sequence[str],
        rejected: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; the other arguments are the dataset's columns, one entry each."""
        outcomes = [parse_completion(completion) for completion in completions]
        rows = zip(outcomes, case_id, post, chosen, rejected, strict=True)
        pairs = {
            row: JudgedPair(case, text, outcome.description, winner, loser)
            for row, (outcome, case, text, winner, loser) in enumerate(rows)
            if isinstance(outcome, Inference)
        }
        answers = dict(zip(pairs, self._ask([*pairs.values()]), strict=True))
        formats = [own if isinstance(own, FormatProblem) else "well_formed" for own in outcomes]
        if log_metric is not None:
            known = [number for number in answers.values() if number is not None]
            means: dict[str, Sequence[float]] = {
                f"format/{name}": [own == name for own in formats]
                for name in ("well_formed", *FormatProblem)
            }
            means["description/words"] = [len(str(p.description).split()) for p in pairs.values()]
            means["reward/not_scored"] = [number is None for number in answers.values()]
            means[f"reward/{self.measured}"] = known
            for name, values in means.items():
                # TRL averages over processes: a mean of nothing is left out.
                if values:
                    log_metric(name, sum(values) / len(values))
        if log_extra is not None:
            log_extra(self.measured, [answers.get(row) for row in range(len(outcomes))])
            log_extra("format", [str(own) for own in formats])
        rewards = {row: None if own is None else self.score(own) for row, own in answers.items()}
        return [rewards.get(row, 0.0) for row in range(len(outcomes))]

    def _ask(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        """Measure, and end on all processes together where one failed, or most got no answer."""
        before = Counter(getattr(self.asked, "counts", {}))
        numbers: list[float | None] = []
        failure: Exception | None = None
        try:
            numbers = self.measure(pairs)
        except Exception as error:  # Raised below, once the other processes know of it.
            failure = error
        tally = Counter(getattr(self.asked, "counts", {})) - before
        tally.update(asked=len(pairs), missing=numbers.count(None), failed=failure is not None)
        reasons: Counter[str] = sum(gather_object([tally]), Counter())
        asked, missing, failed = (reasons.pop(name, 0) for name in ("asked", "missing", "failed"))
        if failure is not None:
            raise failure
        if failed:
            raise UserError("another process failed while it asked for rewards; see its error")
        said = f"{missing} of {asked} well-formed completions were not scored: {dict(reasons)}"
        out = missing - sum(reasons[reason] for reason in _UNUSABLE)
        if out > self.outage_share * asked and out >= self.outage_least:
            raise UserError(
                f"{said}; see that the model asked is there, and give the same command again: "
                "it goes on from the last checkpoint"
            )
        if 2 * missing > asked:
            say(said)
        return numbers


class JudgedReward(DescriptionReward):
    """R_jud: does a judge, given the description, prefer the reply that the user preferred?

    With P = P_jud(y_w | x, d), the score `win` is 1[P > 1 - P] (a tie is no win), and `probability`
    is P, as in AlignXplore+. The order of the replies is `random`, one for each case by the seed,
    or `both`, averaged.
    """

    __name__ = "judged"
    measured = "probability_of_chosen"

    def __init__(
        self,
        judge: Judge,
        order: Order,
        seed: int,
        score: Literal["win", "probability"] = "win",
        outage_share: float = 0.2,
        outage_least: int = 8,
    ) -> None:
        super().__init__(judge, outage_share, outage_least)
        self.order, self.seed, self.is_win = order, seed, score == "win"

    def measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        return preferences(self.asked, pairs, self.order, self.seed)

    def score(self, number: float) -> float:
        return float(number > 0.5) if self.is_win else number


class LogProbabilityReward(DescriptionReward):
    """1[log p(y_w|x,d) > log p(y_l|x,d)], by the reply template of a prompt folder."""

    __name__ = "log_probability"
    measured = "difference_of_log_probabilities"

    def __init__(
        self, generator: Generator, prompts: str, outage_share: float = 0.2, outage_least: int = 8
    ) -> None:
        super().__init__(generator, outage_share, outage_least)
        self.prompts = Prompts(prompts)

    def measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        log_p = self._log_probabilities(pairs)
        return _numbers(log_p[:, 0] - log_p[:, 1])

    def score(self, number: float) -> float:
        return float(number > 0)

    def _log_probabilities(self, pairs: Sequence[JudgedPair]) -> NDArray[np.float64]:
        """Of the chosen and the rejected reply of each pair; NaN without an answer."""
        prompts = [
            self.prompts.render("reply", post=own.post, description=own.description)
            for own in pairs
        ]
        found = self.asked.log_probabilities(
            [prompt for prompt in prompts for _ in range(2)],
            [reply for pair in pairs for reply in (pair.chosen, pair.rejected)],
        )
        return np.array(found, dtype=float).reshape(-1, 2)


class GeneratedReward(LogProbabilityReward):
    """R_gen: 1[log p(y_w|x,d) - log p(y_w|x) > log p(y_l|x,d) - log p(y_l|x)]."""

    __name__ = "generated"
    measured = "difference_of_gains"

    def measure(self, pairs: Sequence[JudgedPair]) -> list[float | None]:
        # The terms without d, which no rollout changes, are asked for once of each case.
        bare = list(dict.fromkeys(replace(pair, description=None) for pair in pairs))
        log_p = self._log_probabilities([*pairs, *bare])
        places = {pair: place for place, pair in enumerate(bare, len(pairs))}
        without = log_p[[places[replace(pair, description=None)] for pair in pairs]]
        gains = log_p[: len(pairs)] - without
        return _numbers(gains[:, 0] - gains[:, 1])


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(own) else float(own) for own in values]

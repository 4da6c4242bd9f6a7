"""R_jud x R_format as one reward callable for TRL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from alignxplore_trl.judging.protocol import Judge, JudgedPair, Order, preference_probabilities
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion


class JudgedReward:
    """1 if the judge, given the description, prefers the reply that the user preferred.

    R_jud (METHOD: Rewards): `1[P_jud(y_w | x, d) > P_jud(y_l | x, d)]`, 0 for a malformed
    completion and for a tie, `None` where the judge did not answer. It is one callable on purpose:
    beside a second reward function, TRL would count a missing judgement as 0.

    Args:
        judge: the judging model.
        order: `random` (one order per case, by the seed) or `both` (the mean of the two).
        seed: of the random order.
    """

    __name__ = "judged"

    def __init__(self, judge: Judge, order: Order, seed: int) -> None:
        self.judge = judge
        self.order = order
        self.seed = seed

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
        parsed = [parse_completion(completion) for completion in completions]
        probabilities = self._probabilities(parsed, case_id, post, chosen, rejected)
        rewards = [
            reward_of(outcome, probability)
            for outcome, probability in zip(parsed, probabilities, strict=True)
        ]
        if log_metric is not None:
            _log_components(log_metric, parsed, probabilities)
        if log_extra is not None:
            log_extra("probability_of_chosen", probabilities)
            log_extra("format", [_format_name(outcome) for outcome in parsed])
        return rewards

    def _probabilities(
        self,
        parsed: Sequence[Inference | FormatProblem],
        case_id: Sequence[str],
        post: Sequence[str],
        chosen: Sequence[str],
        rejected: Sequence[str],
    ) -> list[float | None]:
        """Ask the judge about the well-formed completions; `None` for the others."""
        rows = zip(parsed, case_id, post, chosen, rejected, strict=True)
        asked = {
            index: JudgedPair(case, text, outcome.description, winner, loser)
            for index, (outcome, case, text, winner, loser) in enumerate(rows)
            if isinstance(outcome, Inference)
        }
        answers = preference_probabilities(self.judge, list(asked.values()), self.order, self.seed)
        by_index = dict(zip(asked, answers, strict=True))
        return [by_index.get(index) for index in range(len(parsed))]


def reward_of(outcome: Inference | FormatProblem, probability: float | None) -> float | None:
    """R_jud x R_format of one parsed completion and the judge's probability of the right reply."""
    if isinstance(outcome, FormatProblem):
        return 0.0
    return None if probability is None else float(probability > 0.5)


def _format_name(outcome: Inference | FormatProblem) -> str:
    return outcome.value if isinstance(outcome, FormatProblem) else "well_formed"


def _log_components(
    log_metric: Callable[[str, float], None],
    parsed: Sequence[Inference | FormatProblem],
    probabilities: Sequence[float | None],
) -> None:
    names = Counter(_format_name(outcome) for outcome in parsed)
    for name in ("well_formed", *FormatProblem):
        log_metric(f"format/{name}", names[name] / len(parsed))
    answered = [probability for probability in probabilities if probability is not None]
    asked = names["well_formed"]
    if asked:
        log_metric("judge/failed_share", 1 - len(answered) / asked)
    if answered:
        log_metric("judge/probability_of_chosen", sum(answered) / len(answered))

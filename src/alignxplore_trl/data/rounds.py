"""Cases -> the rows that training reads: one for each case and round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import (
    PreferenceCase,
    Signal,
    rounds_of_signals,
    signal_from_dict,
    signal_to_dict,
)
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError


@dataclass(frozen=True)
class RoundRow:
    """One case in one round.

    Attributes:
        prompt: the prompt without an earlier description, within the budget.
        case_id: names the case; the same in all of its rounds.
        user_id: names the user.
        round: 1 is the first.
        signals: this round's signals as a JSON list of `signal_to_dict`.
        post: the post of the target pair.
        chosen: the reply of the target pair that the user chose.
        rejected: the reply of the target pair that the user rejected.
    """

    prompt: str
    case_id: str
    user_id: str
    round: int
    signals: str
    post: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class RoundRows:
    """The rows of some cases, and what is missing in them, by reason."""

    rows: list[RoundRow]
    counts: dict[str, int]


def round_rows(
    cases: Sequence[PreferenceCase],
    per_round: int,
    rounds: int,
    fit: Callable[[Sequence[Signal], str | None], FittedPrompt],
) -> RoundRows:
    """Lay out cases by round: for each case in order, its rounds ascending.

    Args:
        cases: in the order in which the rows are to be.
        per_round: signals in a round.
        rounds: rounds asked for. A case with signals for fewer rounds has fewer rows, or none.
        fit: signals and the earlier description -> prompt, see `fit_prompt`.

    Returns:
        The rows, and the counts `cases`, `rows`, `cases_without_round/<n>`,
        `prompts_with_dropped_signals`, `dropped_signals`, `prompts_with_shortened_texts` and
        `shortened_texts`.

    Raises:
        UserError: the instruction alone is above the token budget.
    """
    rows: list[RoundRow] = []
    counts: Counter[str] = Counter(cases=len(cases))
    for case in cases:
        signals_of_rounds = rounds_of_signals(case, per_round, rounds)
        for missing in range(len(signals_of_rounds) + 1, rounds + 1):
            counts[f"cases_without_round/{missing}"] += 1
        for number, signals in enumerate(signals_of_rounds, 1):
            fitted = _fit(fit, signals, case.case_id, number)
            counts["prompts_with_dropped_signals"] += fitted.dropped_signals > 0
            counts["dropped_signals"] += fitted.dropped_signals
            counts["prompts_with_shortened_texts"] += fitted.shortened_texts > 0
            counts["shortened_texts"] += fitted.shortened_texts
            rows.append(
                RoundRow(
                    prompt=fitted.text,
                    case_id=case.case_id,
                    user_id=case.user_id,
                    round=number,
                    signals=json.dumps(
                        [signal_to_dict(signal) for signal in signals], ensure_ascii=False
                    ),
                    post=case.target.post,
                    chosen=case.target.chosen,
                    rejected=case.target.rejected,
                )
            )
    counts["rows"] = len(rows)
    return RoundRows(rows, dict(sorted(counts.items())))


def signals_of_row(row: Mapping[str, Any]) -> list[Signal]:
    """The signals of a round, from a row of a dataset of `RoundRow`s."""
    return [signal_from_dict(signal) for signal in json.loads(row["signals"])]


def _fit(
    fit: Callable[[Sequence[Signal], str | None], FittedPrompt],
    signals: Sequence[Signal],
    case_id: str,
    number: int,
) -> FittedPrompt:
    try:
        return fit(signals, None)
    except PromptTooLongError as error:
        raise UserError(
            f"prompts.max_prompt_tokens: the prompt of case {case_id} in round {number} can't be "
            f"made short enough: {error}; raise the budget"
        ) from error

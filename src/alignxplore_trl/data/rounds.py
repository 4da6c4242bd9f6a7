"""Cases -> the rows that training reads: one for each case and round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import asdict

from alignxplore_trl.cases import Case, encode_signals
from alignxplore_trl.text.budget import PromptBudget


class RoundRows(NamedTuple):
    """Rows for a dataset, and what is missing in them, by reason.

    Columns: `prompt` (without an earlier description), `case_id`, `user_id`, `round` (from 1),
    `signals` (see `encode_signals`), `post`, `chosen` and `rejected`.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def round_rows(
    cases: Sequence[Case],
    per_round: int,
    rounds: int,
    budget: PromptBudget,
) -> RoundRows:
    """Lay out cases by round: for each case in order, its rounds ascending.

    A case with signals for fewer rounds than asked for has fewer rows, or none.

    Raises:
        PromptTooLongError: the instruction alone is above the token budget.
    """
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(cases=len(cases))
    for case in cases:
        signals_of_rounds = case.rounds(per_round, rounds)
        for missing in range(len(signals_of_rounds) + 1, rounds + 1):
            counts[f"cases_without_round/{missing}"] += 1
        for number, signals in enumerate(signals_of_rounds, 1):
            fitted = budget.fit("inference", signals)
            for what in ("dropped_signals", "shortened_texts"):
                counts[what] += getattr(fitted, what)
                counts[f"prompts_with_{what}"] += getattr(fitted, what) > 0
            about = {"case_id": case.case_id, "user_id": case.user_id, "round": number}
            columns = {"signals": encode_signals(signals), **asdict(case.target)}
            rows.append({"prompt": fitted.text, **about, **columns})
    counts["rows"] = len(rows)
    return RoundRows(rows, dict(sorted(counts.items())))

"""Which candidates become cold-start examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.candidates import Candidate
from alignxplore_trl.text.parsing import FormatProblem, Inference

KeepRule = Literal["first", "shortest", "highest_margin"]


def keep_verified(
    candidates: Sequence[Candidate],
    *,
    keep: int | None,
    rule: KeepRule,
    mix: Sequence[float] | None,
    seed: int,
) -> list[Candidate]:
    """The same candidates, with those marked as kept that become examples.

    D_cold (METHOD, cold start, step 3): a candidate is kept only if its reward is 1.

    Args:
        candidates: of all rounds.
        keep: of one case in one round, how many at most; `None`: all.
        rule: which come first: as they were numbered, those of the fewest tokens, or those whose
            score is highest.
        mix: how many of each round relative to the others: as many as there are in these
            proportions are drawn from what was kept; `None`: all.
        seed: of that draw.

    Raises:
        UserError: a round that the mixture asks for has none.
    """
    of_prompt: dict[tuple[str, int], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.reward == 1:
            of_prompt[candidate.case_id, candidate.round].append(candidate)
    kept = [
        candidate
        for verified in of_prompt.values()
        for candidate in sorted(verified, key=lambda each: _order(each, rule))[:keep]
    ]
    if mix is not None:
        kept = _mixed(kept, mix, seed)
    places = {candidate.place for candidate in kept}
    return [replace(each, kept=each.place in places) for each in candidates]


def count_kept(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Of each round: the examples that were kept, and the cases that have one."""
    counts = {}
    for number in sorted({candidate.round for candidate in candidates}):
        kept = [each for each in candidates if each.kept and each.round == number]
        counts[f"round_{number}/kept"] = len(kept)
        counts[f"round_{number}/cases_with_one_kept"] = len({each.case_id for each in kept})
    return counts


def outcomes_in_words(candidates: Sequence[Candidate]) -> str:
    """How many candidates ended how, most first: `12 rejected by the judge, 3 no_answer`."""
    counts = Counter(map(_outcome, candidates))
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no candidates"


def _outcome(candidate: Candidate) -> str:
    if isinstance(candidate.answer, Unanswered):
        return f"unanswered ({candidate.answer.reason})"
    if isinstance(candidate.outcome, FormatProblem):
        return f"malformed ({candidate.outcome})"
    if candidate.reward is None:
        return "not judged"
    return "verified" if candidate.reward == 1 else "rejected by the judge"


def draw_unverified(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """As many well-formed candidates of each round as were kept, drawn whatever the judge said.

    What verification is compared with: a set of the same size and mixture.
    """
    drawn = []
    sizes = Counter(candidate.round for candidate in candidates if candidate.kept)
    for number in sorted(sizes):
        well_formed = [
            each
            for each in candidates
            if each.round == number and isinstance(each.outcome, Inference)
        ]
        ranked = sorted(well_formed, key=lambda each: each.rank(f"{seed}/unverified"))
        chosen = {each.place for each in ranked[: sizes[number]]}
        drawn += [each for each in well_formed if each.place in chosen]
    return drawn


def _order(candidate: Candidate, rule: KeepRule) -> tuple[float, int]:
    assert isinstance(candidate.answer, Written)
    assert candidate.score is not None
    first = {
        "first": 0.0,
        "shortest": float(candidate.answer.completion_tokens),
        "highest_margin": -candidate.score,
    }
    return first[rule], candidate.number


def _mixed(kept: Sequence[Candidate], mix: Sequence[float], seed: int) -> list[Candidate]:
    found = Counter(candidate.round for candidate in kept)
    asked = {number: share for number, share in enumerate(mix, 1) if share > 0}
    if missing := [number for number in asked if not found[number]]:
        raise UserError(
            f"synthesis.mix: {list(mix)} found, but of round {missing[0]} nothing was kept; ask "
            "for other proportions, or for more cases or candidates"
        )
    parts = min(found[number] / share for number, share in asked.items())
    chosen: set[tuple[str, int, int]] = set()
    for number, share in asked.items():
        of_round = [candidate for candidate in kept if candidate.round == number]
        ranked = sorted(of_round, key=lambda each: each.rank(f"{seed}/mix"))
        # Rounded down, but for what floating-point division takes from a whole number.
        chosen |= {each.place for each in ranked[: int(parts * share + 1e-9)]}
    return [candidate for candidate in kept if candidate.place in chosen]

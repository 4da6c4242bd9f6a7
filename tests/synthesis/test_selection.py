"""What is kept against its definition, over whatever candidates there may be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.candidates import Candidate, Earlier
from alignxplore_trl.synthesis.selection import (
    KeepRule,
    count_kept,
    draw_unverified,
    keep_verified,
    outcomes_in_words,
)
from alignxplore_trl.text.parsing import FormatProblem, Inference
from tests.synthesis.teaching import written

RULES = st.sampled_from(get_args(KeepRule))
# What becomes of a candidate: verified, wrong, not judged, malformed, not answered.
FATES = st.sampled_from(["verified", "verified", "wrong", "unjudged", "malformed", "unanswered"])


def candidate(
    case: int, number: int, fate: str, tokens: int = 5, score: float = 0.9, round_number: int = 1
) -> Candidate:
    is_read = fate in ("verified", "wrong", "unjudged")
    return Candidate(
        case_id=f"case {case}",
        round=round_number,
        number=number,
        dimensions=(),
        earlier=Earlier("first_round"),
        prompt="prompt",
        answer=Unanswered("timeout") if fate == "unanswered" else written(completion_tokens=tokens),
        completion=None if fate == "unanswered" else "text",
        outcome=Inference("r", "d")
        if is_read
        else (FormatProblem.NO_ANSWER if fate == "malformed" else None),
        score=score if fate in ("verified", "wrong") else None,
        reward={"verified": 1.0, "wrong": 0.0, "malformed": 0.0}.get(fate),
    )


@st.composite
def candidates_of_runs(draw: st.DrawFn) -> list[Candidate]:
    places = [(r, c, n) for r in (1, 2) for c in range(4) for n in range(4)]
    found = [
        candidate(
            case,
            number,
            draw(FATES),
            draw(st.integers(1, 4)),
            draw(st.sampled_from([0.6, 0.7, 0.9])),
            round_number,
        )
        for round_number, case, number in places
    ]
    return [own for own in found if draw(st.integers(0, 5))]


def kept_of(
    candidates: list[Candidate],
    keep: int | None = None,
    rule: KeepRule = "first",
    mix: list[float] | None = None,
    seed: int = 0,
) -> list[Candidate]:
    marked = keep_verified(candidates, keep=keep, rule=rule, mix=mix, seed=seed)
    assert [replace(own, kept=False) for own in marked] == candidates
    return [own for own in marked if own.kept]


@given(candidates_of_runs(), st.none() | st.integers(1, 5), RULES)
def test_only_verified_ones_are_kept_and_so_many_of_a_prompt(
    candidates: list[Candidate], keep: int | None, rule: KeepRule
) -> None:
    kept = kept_of(candidates, keep, rule)
    assert all(own.reward == 1 for own in kept)
    verified = Counter((own.case_id, own.round) for own in candidates if own.reward == 1)
    expected = {place: min(count, keep or count) for place, count in verified.items()}
    assert Counter((own.case_id, own.round) for own in kept) == expected


@given(candidates_of_runs(), st.integers(1, 4), RULES)
def test_the_rules_are_sorts(candidates: list[Candidate], keep: int, rule: KeepRule) -> None:
    kept = kept_of(candidates, keep, rule)
    for case_id, round_number in {(own.case_id, own.round) for own in candidates}:
        own = [c for c in candidates if (c.case_id, c.round) == (case_id, round_number)]
        own = sorted((c for c in own if c.reward == 1), key=lambda c: c.number)
        if rule == "shortest":
            own.sort(key=lambda c: c.row()["completion_tokens"])
        elif rule == "highest_margin":
            own.sort(key=lambda c: c.score or 0, reverse=True)
        expected = {c.number for c in own[:keep]}
        found = {c.number for c in kept if (c.case_id, c.round) == (case_id, round_number)}
        assert found == expected


@given(candidates_of_runs(), st.lists(st.integers(0, 5), min_size=2, max_size=2), st.integers(0, 3))
def test_a_mixture_has_its_proportions_and_none_is_larger(
    candidates: list[Candidate], mix: list[int], seed: int
) -> None:
    assume(any(mix))
    everything = kept_of(candidates)
    there = Counter(own.round for own in everything)
    assume(all(there[number] for number, share in enumerate(mix, 1) if share))
    kept = kept_of(candidates, mix=[float(share) for share in mix], seed=seed)
    sizes = Counter(own.round for own in kept)
    # The largest number of parts, as a fraction, that all rounds have: no float is involved.
    asked = {number: share for number, share in enumerate(mix, 1) if share}
    scarce = min(asked, key=lambda number: there[number] / asked[number])
    assert {number: sizes[number] for number in (1, 2)} == {
        number: there[scarce] * share // asked[scarce] for number, share in enumerate(mix, 1)
    }
    assert {own.place for own in kept} <= {own.place for own in everything}


def test_the_published_mixture_is_drawn_whole() -> None:
    """Shares that no float holds exactly take nothing from the round that is scarce."""
    candidates = [
        candidate(n, 0, "verified", round_number=r) for r in (1, 2) for n in range(1000 * r)
    ]
    for mix in ([3980, 5278], [0.3980, 0.5278], [0.1, 0.3], [1 / 3, 2 / 3]):
        sizes = Counter(own.round for own in kept_of(candidates, mix=list(mix)))
        assert 1000 in (sizes[1], sizes[2] / 2)
        assert sizes[2] == pytest.approx(sizes[1] * mix[1] / mix[0], abs=3)


def test_a_round_without_any_cannot_be_mixed() -> None:
    candidates = [candidate(0, 0, "verified"), candidate(0, 0, "wrong", round_number=2)]
    with pytest.raises(UserError, match=r"synthesis\.mix: .* of round 2 nothing was kept"):
        kept_of(candidates, mix=[1.0, 1.0])
    assert len(kept_of(candidates, mix=[1.0, 0.0])) == 1


@given(candidates_of_runs(), st.integers(0, 3))
def test_the_unverified_ones_are_as_many_of_each_round(
    candidates: list[Candidate], seed: int
) -> None:
    marked = keep_verified(candidates, keep=2, rule="first", mix=None, seed=0)
    drawn = draw_unverified(marked, seed)
    assert Counter(own.round for own in drawn) == Counter(own.round for own in marked if own.kept)
    assert all(isinstance(own.outcome, Inference) for own in drawn)
    assert len({own.place for own in drawn}) == len(drawn)
    assert all(own in marked for own in drawn)


@given(candidates_of_runs(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_unverified_ones_are_drawn_whatever_the_judge_said(
    candidates: list[Candidate], random: Random, seed: int
) -> None:
    """Of each round: other candidates are the kept ones, but no more and no less of them."""
    marked = keep_verified(candidates, keep=None, rule="first", mix=None, seed=0)
    permuted = list(marked)
    for number in (1, 2):
        places = [
            place
            for place, own in enumerate(marked)
            if own.round == number and isinstance(own.outcome, Inference)
        ]
        said = [(marked[place].score, marked[place].reward, marked[place].kept) for place in places]
        random.shuffle(said)
        for place, (score, reward, kept) in zip(places, said, strict=True):
            permuted[place] = replace(marked[place], score=score, reward=reward, kept=kept)
    drawn = [own.place for own in draw_unverified(marked, seed)]
    assert [own.place for own in draw_unverified(permuted, seed)] == drawn


def test_what_is_kept_is_counted_by_round() -> None:
    fates = [(0, 0, "verified"), (0, 1, "verified"), (1, 0, "verified"), (2, 0, "wrong")]
    candidates = [candidate(*fate) for fate in fates]
    candidates.append(candidate(0, 0, "malformed", round_number=2))
    marked = keep_verified(candidates, keep=None, rule="first", mix=None, seed=0)
    assert count_kept(marked) == {
        "round_1/kept": 3,
        "round_1/cases_with_one_kept": 2,
        "round_2/kept": 0,
        "round_2/cases_with_one_kept": 0,
    }


def test_every_fate_is_told_in_words() -> None:
    fates = ["verified", "wrong", "wrong", "unjudged", "malformed", "unanswered"]
    found = [candidate(0, number, fate) for number, fate in enumerate(fates)]
    assert outcomes_in_words(found) == (
        "2 rejected by the judge, 1 verified, 1 not judged, 1 malformed (no_answer), "
        "1 unanswered (timeout)"
    )
    assert outcomes_in_words([]) == "no candidates"

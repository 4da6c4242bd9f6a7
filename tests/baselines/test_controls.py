"""Descriptions of other users: each given once, and never to their own."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from alignxplore_trl.baselines.controls import AnotherUsers, plain_text
from alignxplore_trl.baselines.protocol import Asked, Said, Setting
from alignxplore_trl.cases import Attributes, Comparison, Post
from tests.evaluation.doubles import make_case


@pytest.mark.parametrize("cases_of_users", [[1] * 7, [3, 1, 2, 1], [300, 300], [2, 1, 1]])
def test_descriptions_are_exchanged_between_users(cases_of_users: list[int]) -> None:
    users = [f"user{n}" for n, count in enumerate(cases_of_users) for _ in range(count)]
    cases = [
        msgspec.structs.replace(make_case(n, signals=1), user_id=user)
        for n, user in enumerate(users)
    ]
    owner = {f"text {case.case_id}": case.user_id for case in cases}
    others = [Said(case.case_id, description=f"text {case.case_id}") for case in cases]

    said = AnotherUsers("rl").describe(Asked(cases, Setting(1), others))

    by_id = {case.case_id: case.user_id for case in cases}
    assert len(said) == len(cases)
    assert set(Counter(own.description for own in said).values()) == {1}
    assert all(owner[str(own.description)] != by_id[own.case_id] for own in said)
    assert said != AnotherUsers("rl", seed=1).describe(Asked(cases, Setting(1), others))


def test_a_user_with_most_cases_leaves_some_out_and_malformed_ones_stay() -> None:
    cases = [msgspec.structs.replace(make_case(n, signals=1), user_id="a") for n in range(3)]
    cases += [make_case(3, signals=1), make_case(4, signals=1)]
    others = [Said(case.case_id, description=case.case_id) for case in cases[:4]]
    others.append(Said("case4", problem="no_answer"))

    said = AnotherUsers("rl").describe(Asked(cases, Setting(1), others))

    assert sorted((own.description, own.case_id) for own in said[:-1])[-1][0] == "case3"
    assert len(said) == 3  # One of three is given to the other user, and one is given theirs.
    assert said[-1] == others[-1]


def test_signals_are_shown_without_any_tags() -> None:
    assert plain_text(Comparison("p", "a", "b")) == "Post: p\nChosen: a\nRejected: b"
    assert plain_text(Post("p", "c")) == "Post: p\nComment: c"
    assert plain_text(Attributes("a nurse")) == "About the user: a nurse"

"""Descriptions change hands, and never within a user or a cluster."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.evaluation.controls import of_another_user
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.evaluation.scoring import score
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.parsing import FormatProblem

TARGET = Comparison("a post", "yes", "no")
# (user, cluster, what became of the description)
drawn = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from("123"),
    st.sampled_from(["written", "malformed", "none"]),
)


def entries_of(rows):
    cases, described = [], []
    for number, (user, cluster, outcome) in enumerate(rows):
        cases.append(PreferenceCase(f"case {number}", user, (), TARGET, cluster=cluster))
        described.append(
            UserDescription(
                f"case {number}",
                f"of {number}" if outcome == "written" else None,
                reasoning="because" if outcome == "written" else None,
                format_problem=FormatProblem.NO_ANSWER if outcome == "malformed" else None,
            )
        )
    return cases, described


@given(st.lists(drawn, max_size=14), st.integers(0, 5))
def test_descriptions_come_from_another_user_and_cluster(rows, seed):
    cases, described = entries_of(rows)
    given_to = of_another_user(cases, described, seed)
    by_id = {case.case_id: case for case in cases}
    giver = {said.description: by_id[said.case_id] for said in described if said.description}
    handed = {said.case_id: said.description for said in given_to if said.description is not None}
    assert len(set(handed.values())) == len(handed)
    for case_id, description in handed.items():
        assert giver[description].user_id != by_id[case_id].user_id
        assert giver[description].cluster != by_id[case_id].cluster
    malformed = [said.case_id for said in described if said.format_problem is not None]
    assert [said.case_id for said in given_to if said.format_problem is not None] == malformed
    assert all(said.reasoning is said.completion is None for said in given_to)
    left_out = {by_id[said.case_id] for said in described if said.description} - {
        by_id[case_id] for case_id in handed
    }
    spare = [case for text, case in giver.items() if text not in set(handed.values())]
    for case in left_out:
        assert not any(
            case.user_id != other.user_id and case.cluster != other.cluster for other in spare
        )


@given(st.lists(st.sampled_from("abcd"), max_size=20))
def test_as_many_are_given_as_can_be(users):
    """With m of n cases of one user, at most 2 (n - m) can be given, and all up to a half."""
    cases, described = entries_of([(user, user, "written") for user in users])
    most = max(Counter(users).values(), default=0)
    assert len(of_another_user(cases, described, 0)) == min(len(users), 2 * (len(users) - most))


@given(st.lists(drawn, max_size=14), st.randoms(use_true_random=False))
def test_the_order_of_cases_does_not_matter(rows, shuffler):
    cases, described = entries_of(rows)
    shuffled = shuffler.sample(described, len(described))
    found = {said.case_id: said for said in of_another_user(cases, described, 1)}
    assert found == {said.case_id: said for said in of_another_user(cases, shuffled, 1)}


def test_the_seed_decides(cases):
    golden = Golden().describe(cases)
    first, again, other = (of_another_user(cases, golden, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [said.case_id for said in first] == [case.case_id for case in cases]


def test_the_truth_of_another_user_is_worth_little(cases, judges):
    golden = Golden().describe(cases)
    methods = {
        MethodSetting("golden", "base4"): golden,
        MethodSetting("golden_of_another_user", "base4"): of_another_user(cases, golden, 0),
    }
    rows = score("world", cases, methods, {"judge": judges["judge"]}, {}, len).verdicts
    right = Counter(row.method for row in rows if row.correct)
    assert right["golden"] == len(cases)
    assert right["golden_of_another_user"] < 0.6 * len(cases)


def test_users_of_several_clusters_keep_none_of_their_descriptions(cases):
    """Where the cluster is the target, as in sets that use one pair in both directions."""
    split = [
        replace(case, user_id=f"user {number % 3}", cluster=f"target {number % 75}")
        for number, case in enumerate(cases)
    ]
    texts = [UserDescription(case.case_id, case.case_id) for case in split]
    given_to = of_another_user(split, texts, 0)
    by_id = {case.case_id: case for case in split}
    assert len(given_to) == len(cases)
    assert all(by_id[s.case_id].user_id != by_id[s.description].user_id for s in given_to)

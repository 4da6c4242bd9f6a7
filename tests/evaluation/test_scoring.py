"""Descriptions become verdicts: malformed, tied and unanswered ones as the method says."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.data.world import OPPOSITE, describe
from alignxplore_trl.evaluation.kept import KeptAnswers, KeptJudge
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.evaluation.scoring import is_correct, score
from alignxplore_trl.judging.generator import LocalGenerator
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.rewards.generated import GeneratedReward
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.parsing import FormatProblem

NAME = MethodSetting("method", "base4")
READER = MethodSetting("reader", "base4")
SHIPPED_JUDGE = Path(__file__).parents[2] / "assets" / "judge"


def words(text):
    return len(text.split())


def judged(cases, methods, judges, **options):
    return score("world", cases, methods, judges, {}, words, **options).verdicts


def generated(cases, methods, generators):
    return score("world", cases, methods, {}, generators, words).verdicts


def test_true_descriptions_win_and_their_opposites_lose(cases, judges):
    wrong = [
        UserDescription(
            case.case_id, describe([OPPOSITE[pole] for pole in case.directions.values()])
        )
        for case in cases
    ]
    methods = {
        MethodSetting("golden", "base4"): Golden().describe(cases),
        MethodSetting("wrong", "base4"): wrong,
    }
    rows = judged(cases, methods, {"judge": judges["judge"]})
    assert {(row.method, row.correct) for row in rows} == {("golden", 1.0), ("wrong", 0.0)}
    assert all(row.p_correct > 0.5 for row in rows if row.method == "golden")
    assert [row.case_id for row in rows] == [case.case_id for case in cases] * 2


def test_a_tie_is_not_a_win(cases, judges):
    rows = judged(cases, {NAME: [UserDescription(cases[0].case_id, None)]}, judges)
    assert (rows[0].p_correct, rows[0].correct) == (0.5, 0.0)
    assert [is_correct(p) for p in (0.49, 0.5, 0.51, None)] == [0.0, 0.0, 1.0, None]


def test_malformed_completions_score_0_and_no_model_sees_them(cases, judges, generators):
    malformed = UserDescription.from_completion(
        cases[0].case_id, " hm </think>", FormatProblem.NO_ANSWER, tokens=3, ended=True
    )
    own_judge, own_generator = judges["judge"], generators["generator"]
    scores = score(
        "world", cases, {NAME: [malformed]}, {"one": own_judge}, {"one": own_generator}, words
    )
    jud, gen = scores.verdicts
    assert (jud.metric, jud.correct, jud.p_correct) == ("acc_jud", 0.0, None)
    assert (gen.metric, gen.correct, gen.margin) == ("acc_gen", 0.0, None)
    assert own_judge.asked == own_generator.asked == []
    (row,) = scores.descriptions
    assert (row.said, row.description_tokens) == (malformed, None)


def test_no_answer_stays_none(cases, judges):
    rows = judged(cases, {NAME: Golden().describe(cases)}, judges)
    posts = {case.case_id: case.target.post for case in cases}
    silent = [posts[row.case_id].endswith("indoors") for row in rows]
    for row, is_silent in zip(rows, silent, strict=True):
        unanswered = is_silent and row.judge == "test_judge"
        assert (row.correct is None) == (row.p_correct is None) == unanswered
    assert any(silent)


def test_the_order_of_replies_is_undone_and_averaged(cases):
    biased = SimpleNamespace(judge=lambda questions: [Verdict(0.8, 1.0) for _ in questions])
    rows = judged(cases, {NAME: Golden().describe(cases)}, {"biased": biased})
    assert {row.p_correct for row in rows} == {0.5}
    assert {row.correct for row in rows} == {0.0}
    rows = judged(cases, {NAME: Golden().describe(cases)}, {"biased": biased}, order="random")
    assert {row.correct for row in rows} == {0.0, 1.0}


def test_with_kept_verdicts_each_question_is_asked_once(cases, methods, judges, tmp_path):
    answers = KeptAnswers(tmp_path / "answers.sqlite")
    kept = {name: KeptJudge(judge, answers, name) for name, judge in judges.items()}
    reversed_target = replace(
        cases[0],
        case_id="reversed",
        target=Comparison(cases[0].target.post, cases[0].target.rejected, cases[0].target.chosen),
    )
    everything = [*cases, reversed_target]
    nothing = [UserDescription(case.case_id, None) for case in everything]
    repeated = {MethodSetting("null", "base8"): nothing, **methods}
    rows = judged(everything, repeated, kept)
    asked = judges["judge"].asked
    assert len(set(asked)) == len(asked)
    assert sum(question.description is None for question in asked) == 2 * len(cases)
    assert len(rows) == 2 * sum(map(len, repeated.values()))


def test_judges_are_asked_case_by_case_in_few_calls(cases, methods, judges):
    calls = []
    judge = SimpleNamespace(
        judge=lambda questions: calls.append(questions) or judges["judge"].judge(questions)
    )
    judged(cases, methods, {"judge": judge})
    assert len(calls) < len(methods) - 1  # the decisions aren't asked about
    pairs = [
        frozenset((question.post, question.response_a, question.response_b))
        for call in calls
        for question in call
    ]
    assert sum(before != pair for before, pair in pairwise(pairs)) == len(set(pairs)) - 1


def test_decisions_stand_under_every_judge_and_ask_none(cases, judges):
    decisions = [
        Decision(case.case_id, p) for case, p in zip(cases, (1.0, 0.5, None), strict=False)
    ]
    rows = judged(cases, {NAME: decisions}, judges)
    assert [row.correct for row in rows] == [1.0, 0.0, None] * 2
    assert [row.judge for row in rows] == ["judge"] * 3 + ["test_judge"] * 3
    assert judges["judge"].asked == judges["test_judge"].asked == []


def columns(cases, descriptions):
    """What a reward is called with for these rows."""
    targets = [case.target for case in cases]
    return {
        "completions": [row.said.completion for row in descriptions],
        "case_id": [case.case_id for case in cases],
        "post": [target.post for target in targets],
        "chosen": [target.chosen for target in targets],
        "rejected": [target.rejected for target in targets],
    }


def test_verdicts_are_the_rewards_of_training(cases, methods, judges, generators):
    """R_jud and R_gen of the evaluation are those of the reward callables, one by one."""
    scores = score("world", cases, {READER: methods[READER]}, judges, generators, words)
    reward_of = {
        ("acc_jud", name): JudgedReward(judge, order="both", seed=0)
        for name, judge in judges.items()
    } | {("acc_gen", name): GeneratedReward(generator) for name, generator in generators.items()}
    for (metric, name), reward in reward_of.items():
        own = [row for row in scores.verdicts if (row.metric, row.judge) == (metric, name)]
        expected = reward(**columns(cases, scores.descriptions))
        assert [row.correct for row in own] == expected
        assert {0.0, 1.0} <= set(expected)
    assert any(row.correct is None for row in scores.verdicts)


def test_a_generator_is_asked_where_there_should_be_a_description(cases, methods, generators):
    rows = generated(cases, methods, generators)
    assert {row.method for row in rows} == {"golden", "reader"}
    assert {row.metric for row in rows} == {"acc_gen"}
    golden = [row for row in rows if (row.judge, row.method) == ("judge", "golden")]
    assert {row.correct for row in golden} == {1.0}
    assert min(row.margin for row in golden) >= 1.0
    assert all(row.p_correct is None for row in rows)


def test_a_shipped_model_generates_rather_what_a_user_prefers(cases, prompts):
    some = cases[:40]
    generator = LocalGenerator.from_folder(
        SHIPPED_JUDGE, prompts, dtype="float32", max_batch_tokens=4096
    )
    wrong = [
        UserDescription(
            case.case_id, describe([OPPOSITE[pole] for pole in case.directions.values()])
        )
        for case in some
    ]
    methods = {NAME: Golden().describe(some), READER: wrong}
    rows = generated(some, methods, {"judge": generator})
    mean = {
        name: sum(row.correct for row in rows if row.method == name) / len(some)
        for name in ("method", "reader")
    }
    assert mean["method"] > 0.8
    assert mean["reader"] < 0.2


def test_a_generator_s_tie_is_not_a_win(cases, generators):
    nothing_stated = [UserDescription(cases[0].case_id, "a user")]
    (row, _) = generated(cases, {NAME: nothing_stated}, generators)
    assert (row.margin, row.correct) == (0.0, 0.0)


def test_reasonings_are_judged_like_descriptions(cases, methods, judges):
    """As if each reasoning were the description of a method of its own."""
    rows = judged(cases, {READER: methods[READER]}, judges, faithfulness=True)
    found = [row for row in rows if row.metric == "reasoning"]
    reasonings = [
        UserDescription(said.case_id, said.reasoning)
        for said in methods[READER]
        if said.reasoning is not None
    ]
    expected = judged(cases, {READER: reasonings}, judges)
    assert found == [replace(row, metric="reasoning") for row in expected]
    assert 0 < len(reasonings) < len(cases)
    assert not [row for row in judged(cases, methods, judges) if row.metric == "reasoning"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [UserDescription("nobody", None)],
            r"method/base4: 1 entries of unknown cases \['nobody'\]",
        ),
        (
            [UserDescription("world-3-test-0", None)] * 2,
            "0 entries of unknown cases .*, 1 repeated",
        ),
    ],
)
def test_entries_that_fit_no_case_are_refused(cases, judges, entries, message):
    with pytest.raises(ValueError, match=message):
        judged(cases, {NAME: entries}, judges)
    assert judges["judge"].asked == []


def test_cases_with_one_id_are_refused(cases, judges):
    with pytest.raises(ValueError, match="1 of 151 cases repeat a case_id"):
        judged([*cases, cases[0]], {}, judges)


def test_names_that_would_garble_keys_are_refused(cases, judges):
    model = {"some/model": judges["judge"]}
    for benchmark, methods, own_judges, generators in (
        ("world", {MethodSetting("rl-only", "base4"): []}, {}, {}),
        ("world", {NAME: []}, model, {}),
        ("world", {NAME: []}, {}, model),
        ("world/2", {NAME: []}, {}, {}),
    ):
        with pytest.raises(ValueError, match="a name in results must not hold '/'"):
            score(benchmark, cases, methods, own_judges, generators, words)
    assert judged(cases, {NAME: []}, {"some-7b-model": judges["judge"]}) == []


def test_clusters_are_those_of_the_cases(judges):
    target = Comparison("a post", "haha, study", "gravely, once")
    case = PreferenceCase("c", "u", (), target, cluster="the target")
    (row, _) = judged([case], {NAME: [UserDescription("c", None)]}, judges)
    assert row.cluster == "the target"

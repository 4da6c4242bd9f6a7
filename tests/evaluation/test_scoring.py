"""Descriptions become verdicts: malformed, tied and unanswered ones as the method says."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.data.world import OPPOSITE, describe
from alignxplore_trl.evaluation.scoring import MethodSetting, is_correct, score, write_verdicts
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.parsing import FormatProblem

NAME = MethodSetting("method", "base4")


def words(text):
    return len(text.split())


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
    rows = score(cases, methods, {"judge": judges["judge"]}, words)
    assert {(row.method, row.correct) for row in rows} == {("golden", 1.0), ("wrong", 0.0)}
    assert all(row.p_correct > 0.5 for row in rows if row.method == "golden")
    assert [row.case_id for row in rows] == [case.case_id for case in cases] * 2


def test_a_tie_is_not_a_win(cases, judges):
    rows = score(cases, {NAME: [UserDescription(cases[0].case_id, None)]}, judges, words)
    assert (rows[0].p_correct, rows[0].correct) == (0.5, 0.0)
    assert [is_correct(p) for p in (0.49, 0.5, 0.51, None)] == [0.0, 0.0, 1.0, None]


def test_malformed_completions_score_0_and_no_judge_sees_them(cases, judges):
    malformed = UserDescription.from_completion(
        cases[0].case_id, " hm </think>", FormatProblem.NO_ANSWER, tokens=3, ended=True
    )
    (row,) = score(cases, {NAME: [malformed]}, {"judge": judges["judge"]}, words)
    assert (row.correct, row.p_correct, row.format_problem) == (0.0, None, "no_answer")
    assert (row.completion, row.completion_tokens, row.ended) == (" hm </think>", 3, True)
    assert judges["judge"].asked == []


def test_no_answer_stays_none(cases, judges):
    rows = score(cases, {NAME: Golden().describe(cases)}, judges, words)
    posts = {case.case_id: case.target.post for case in cases}
    silent = [posts[row.case_id].endswith("indoors") for row in rows]
    for row, is_silent in zip(rows, silent, strict=True):
        unanswered = is_silent and row.judge == "test_judge"
        assert (row.correct is None) == (row.p_correct is None) == unanswered
    assert any(silent)


def test_the_order_of_replies_is_undone_and_averaged(cases):
    biased = SimpleNamespace(judge=lambda questions: [Verdict(0.8, 1.0) for _ in questions])
    rows = score(cases, {NAME: Golden().describe(cases)}, {"biased": biased}, words)
    assert {row.p_correct for row in rows} == {0.5}
    assert {row.correct for row in rows} == {0.0}
    rows = score(cases, {NAME: Golden().describe(cases)}, {"biased": biased}, words, order="random")
    assert {row.correct for row in rows} == {0.0, 1.0}


def test_each_question_is_asked_once(cases, methods, judges):
    reversed_target = replace(
        cases[0],
        case_id="reversed",
        target=Comparison(cases[0].target.post, cases[0].target.rejected, cases[0].target.chosen),
    )
    everything = [*cases, reversed_target]
    nothing = [UserDescription(case.case_id, None) for case in everything]
    repeated = {MethodSetting("null", "base8"): nothing, **methods}
    rows = score(everything, repeated, judges, words)
    asked = judges["judge"].asked
    assert len(set(asked)) == len(asked)
    assert sum(question.description is None for question in asked) == 2 * len(cases)
    assert len(rows) == 2 * sum(map(len, repeated.values()))


def test_progress_counts_methods_under_judges(cases, methods, judges):
    done = []
    score(cases, methods, judges, words, report=done.append)
    assert done == list(range(1, 2 * len(methods) + 1))


def test_decisions_stand_under_every_judge_and_ask_none(cases, judges):
    decisions = [
        Decision(case.case_id, p) for case, p in zip(cases, (1.0, 0.5, None), strict=False)
    ]
    rows = score(cases, {NAME: decisions}, judges, words)
    assert [row.correct for row in rows] == [1.0, 0.0, None] * 2
    assert [row.judge for row in rows] == ["judge"] * 3 + ["test_judge"] * 3
    assert judges["judge"].asked == judges["test_judge"].asked == []


def test_verdicts_are_the_rewards_of_training(cases, methods, judges):
    """R_jud of the evaluation is R_jud of the reward callable, completion by completion."""
    name = MethodSetting("reader", "base4")
    rows = score(cases, {name: methods[name]}, judges, words)
    for judge_name, judge in judges.items():
        own = [row for row in rows if row.judge == judge_name]
        targets = [case.target for case in cases]
        rewards = JudgedReward(judge, order="both", seed=0)(
            completions=[row.completion for row in own],
            case_id=[case.case_id for case in cases],
            post=[target.post for target in targets],
            chosen=[target.chosen for target in targets],
            rejected=[target.rejected for target in targets],
        )
        assert [row.correct for row in own] == rewards
        assert {0.0, 1.0} <= set(rewards)


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
        score(cases, {NAME: entries}, judges, words)
    assert judges["judge"].asked == []


def test_cases_with_one_id_are_refused(cases, judges):
    with pytest.raises(ValueError, match="1 of 151 cases repeat a case_id"):
        score([*cases, cases[0]], {}, judges, words)


def test_names_that_would_garble_keys_are_refused(cases, judges):
    for methods, own_judges in (
        ({MethodSetting("rl-only", "base4"): []}, judges),
        ({NAME: []}, {"some/model": judges["judge"]}),
    ):
        with pytest.raises(ValueError, match="a name in results must not hold '/'"):
            score(cases, methods, own_judges, words)
    assert score(cases, {NAME: []}, {"some-7b-model": judges["judge"]}, words) == []


def test_parquet_holds_every_row_with_its_types(tmp_path, cases, methods, judges):
    rows = score(cases, methods, judges, words)
    path = tmp_path / "completions" / "verdicts.parquet"
    write_verdicts(path, rows)
    table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    assert len(table) == len(rows)
    for name, column in table.items():
        values = [None if pd.isna(value) else value for value in column]
        assert values == [getattr(row, name) for row in rows], name
    assert [file.name for file in path.parent.iterdir()] == ["verdicts.parquet"]
    write_verdicts(path, [])
    assert pd.read_parquet(path).empty


def test_clusters_are_those_of_the_cases(judges):
    target = Comparison("a post", "haha, study", "gravely, once")
    case = PreferenceCase("c", "u", (), target, cluster="the target")
    (row, _) = score([case], {NAME: [UserDescription("c", None)]}, judges, words)
    assert row.cluster == "the target"

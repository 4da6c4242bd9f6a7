"""Win rates: true descriptions win, sides are exchangeable, and figures follow from the file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.null import Null
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.evaluation.replies import Reply, write_replies
from alignxplore_trl.evaluation.win_rate import (
    ComparedReplies,
    compare_replies,
    draw_cases,
    outcome_of,
    summarise_win_rates,
    write_win_rates,
)
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.reporting.results import read_figures
from alignxplore_trl.text.rendering import Question

ASSETS = Path(__file__).parents[2] / "assets"
GOLDEN, NULL, OTHER = (MethodSetting(name, "base4") for name in ("golden", "null", "another_user"))
A, B = MethodSetting("first", "base4"), MethodSetting("second", "base8")
SWAPPED = {"win": "loss", "loss": "win", "tie": "tie", None: None}


@pytest.fixture(scope="module")
def users():
    return World(seed=0).cases("test", 200)


@pytest.fixture(scope="module")
def replies(users, prompts):
    writer = Describer.from_folder(
        ASSETS / "judge",
        prompts,
        dtype="float32",
        sampling=SamplingSettings(max_new_tokens=3),
        max_prompt_tokens=1024,
        batch_size=128,
    )
    golden = Golden().describe(users)
    others = [*golden[1:], golden[0]]
    said = {
        GOLDEN: golden,
        NULL: Null().describe(users),
        OTHER: [
            UserDescription(case.case_id, other.description)
            for case, other in zip(users, others, strict=True)
        ],
    }
    return {
        name: write_replies(writer, prompts, users, entries, seed=0)
        for name, entries in said.items()
    }


@pytest.fixture(scope="module")
def compared(users, replies, prompts):
    judge = LocalJudge.from_folder(
        ASSETS / "test_judge", prompts, dtype="float32", max_batch_tokens=16384
    )
    pairs = [(GOLDEN, NULL), (NULL, GOLDEN), (GOLDEN, OTHER), (NULL, OTHER)]
    return compare_replies("world", users, replies, pairs, {"test_judge": judge})


def rows_of(outcomes, clusters=None):
    """Rows of one comparison with these outcomes."""
    return [
        ComparedReplies(
            *("world", "judge", *A, *B, f"case {number}", cluster),
            *("a", "b", True, False, 0.5, 0.5, outcome),
        )
        for number, (outcome, cluster) in enumerate(
            zip(outcomes, clusters or map(str, range(len(outcomes))), strict=True)
        )
    ]


def figures_of(rows, cases=()):
    """The figures of one comparison, by metric."""
    summary = summarise_win_rates(rows, cases, seed=0)
    return {key.metric: figure for key, figure in read_figures(summary).items()}


def test_replies_under_true_descriptions_win(compared, users):
    figures = {
        (key.metric, key.method): figure
        for key, figure in read_figures(summarise_win_rates(compared, users, seed=0)).items()
    }
    for rival in ("null", "another_user"):
        rate = figures["win_rate", f"golden-{rival}"]
        assert 0.75 < rate.low < rate.value < rate.high
        assert figures["win_p", f"golden-{rival}"].value < 1e-20
    rate = figures["win_rate", "null-another_user"]
    assert rate.low < 0.5 < rate.high


def test_swapping_the_methods_mirrors_every_row_and_figure(compared, users):
    there, back = (
        [row for row in compared if (row.method_a, row.method_b) == names]
        for names in (("golden", "null"), ("null", "golden"))
    )
    for row, mirrored in zip(there, back, strict=True):
        assert (row.reply_a, row.reply_b) == (mirrored.reply_b, mirrored.reply_a)
        assert mirrored.outcome == SWAPPED[row.outcome]
    one, other = figures_of(there, users), figures_of(back, users)
    rate, mirrored_rate = one["win_rate"], other["win_rate"]
    assert rate.value == pytest.approx(1 - mirrored_rate.value, abs=1e-12)
    assert rate.low == pytest.approx(1 - mirrored_rate.high, abs=1e-12)
    assert rate.high == pytest.approx(1 - mirrored_rate.low, abs=1e-12)
    assert (one["win_wins"], one["win_losses"]) == (other["win_losses"], other["win_wins"])
    for same in ("win_ties", "win_p", "win_cases", "win_unanswered", "win_replies_cut"):
        assert one[same] == other[same]


def test_figures_follow_from_the_file(tmp_path, compared, users):
    write_win_rates(tmp_path / "completions" / "win_rates.parquet", compared)
    assert [file.name for file in (tmp_path / "completions").iterdir()] == ["win_rates.parquet"]
    table = pd.read_parquet(tmp_path / "completions" / "win_rates.parquet")
    assert len(table) == len(compared) == 4 * len(users)
    figures = read_figures(summarise_win_rates(compared, users, seed=0))
    both = table[["p_a_first", "p_a_second"]]
    won, lost = (both > 0.5).all(axis=1), (both < 0.5).all(axis=1)
    table["points"] = 0.5 + 0.5 * won - 0.5 * lost
    table["won"], table["lost"] = won, lost
    for (judge, a, b), own in table.groupby(["judge", "method_a", "method_b"]):
        found = {
            key.metric: figure.value
            for key, figure in figures.items()
            if (key.judge, key.method, key.setting) == (judge, f"{a}-{b}", "base4-base4")
        }
        assert found["win_rate"] == pytest.approx(own["points"].mean())
        assert found["win_wins"] == pytest.approx(own["won"].mean())
        assert found["win_losses"] == pytest.approx(own["lost"].mean())
        assert found["win_ties"] == pytest.approx((own["outcome"] == "tie").mean())
        assert found["win_cases"] == len(own)
        assert found["win_replies_cut"] == 2 * len(own)


def test_an_empty_file_has_the_same_columns(tmp_path, compared):
    for name, rows in (("full", compared), ("empty", [])):
        write_win_rates(tmp_path / f"{name}.parquet", rows)
    full, empty = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("full", "empty"))
    assert list(full) == list(empty)
    assert empty.empty


@given(
    st.lists(
        st.tuples(st.sampled_from(["win", "tie", "loss", None]), st.sampled_from("abcdefgh")),
        min_size=1,
        max_size=60,
    )
)
def test_counts_and_the_sign_test_are_those_of_the_definition(drawn):
    outcomes = [outcome for outcome, _ in drawn]
    found = figures_of(rows_of(outcomes, [cluster for _, cluster in drawn]))
    wins, ties, losses, unanswered = map(outcomes.count, ("win", "tie", "loss", None))
    answered = wins + ties + losses
    assert (found["win_cases"].value, found["win_unanswered"].value) == (len(drawn), unanswered)
    if not answered:
        for metric in ("win_rate", "win_wins", "win_ties", "win_losses", "win_p"):
            assert found[metric].value is None
        return
    assert found["win_rate"].value == pytest.approx((wins + ties / 2) / answered)
    shares = [found[metric].value for metric in ("win_wins", "win_ties", "win_losses")]
    assert shares == pytest.approx([count / answered for count in (wins, ties, losses)])
    decided = wins + losses
    tail = sum(math.comb(decided, k) for k in range(min(wins, losses) + 1)) / 2**decided
    assert found["win_p"].value == pytest.approx(min(1.0, 2 * tail))
    if found["win_rate"].low is not None:
        assert 0 <= found["win_rate"].low <= found["win_rate"].high <= 1


def test_clusters_widen_the_interval():
    outcomes = ["win", "loss"] * 50
    alone = figures_of(rows_of(outcomes))["win_rate"]
    in_fours = figures_of(rows_of(sorted(outcomes), [str(number // 4) for number in range(100)]))[
        "win_rate"
    ]
    assert in_fours.high - in_fours.low > 1.7 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("p_a_first", "p_a_second", "outcome"),
    [
        (0.9, 0.6, "win"),
        (0.1, 0.4, "loss"),
        (0.9, 0.4, "tie"),
        (0.5, 0.9, "tie"),
        (0.1, 0.5, "tie"),
        (0.5, 0.5, "tie"),
        (None, 0.9, None),
        (0.1, None, None),
    ],
)
def test_only_both_orders_decide(p_a_first, p_a_second, outcome):
    assert outcome_of(p_a_first, p_a_second) == outcome


def test_both_orders_are_asked_under_the_true_description_and_equal_replies_are_not(cases, judges):
    judge, (one, same) = judges["judge"], cases[:2]
    good, bad = Reply(one.target.chosen, True), Reply(one.target.rejected, True)
    replies = {
        A: {one.case_id: good, same.case_id: Reply("haha, study", True)},
        B: {one.case_id: bad, same.case_id: Reply("haha, study", False)},
    }
    rows = compare_replies("world", [one, same], replies, [(A, B), (B, A)], {"judge": judge})
    post, truth = one.target.post, one.description
    orders = [
        Question(post, truth, good.text, bad.text),
        Question(post, truth, bad.text, good.text),
    ]
    assert judge.asked == [*orders, *reversed(orders)]
    assert [row.outcome for row in rows] == ["win", "tie", "loss", "tie"]
    assert rows[0].p_a_first == pytest.approx(rows[0].p_a_second)
    assert (rows[1].p_a_first, rows[1].p_a_second) == (None, None)
    assert figures_of(rows[:2])["win_replies_cut"].value == 1
    assert rows[0].cluster == one.cluster


def test_a_judge_that_knows_only_a_place_makes_ties(cases):
    biased = SimpleNamespace(judge=lambda questions: [Verdict(0.8, 1.0) for _ in questions])
    replies = {
        A: {case.case_id: Reply(case.target.chosen, True) for case in cases},
        B: {case.case_id: Reply(case.target.rejected, True) for case in cases},
    }
    rows = compare_replies("world", cases, replies, [(A, B)], {"judge": biased})
    assert {row.outcome for row in rows} == {"tie"}
    assert figures_of(rows)["win_p"].value == 1


def test_what_is_missing_stays_none_and_is_counted(cases, judges):
    replies = {
        A: {case.case_id: Reply(case.target.chosen, True) for case in cases},
        B: {case.case_id: Reply(case.target.rejected, True) for case in cases[5:]},
    }
    rows = compare_replies("world", cases, replies, [(A, B)], {"judge": judges["test_judge"]})
    silent = [case.target.post.endswith("indoors") for case in cases]
    assert any(silent[5:])
    for number, (row, is_silent) in enumerate(zip(rows, silent, strict=True)):
        assert (row.outcome is None) == (number < 5 or is_silent)
        assert (row.reply_b is None) == (number < 5)
    found = figures_of(rows)
    assert found["win_cases"].value == len(cases)
    assert found["win_unanswered"].value == 5 + sum(silent[5:])
    assert found["win_rate"].value == 1


def test_cases_without_a_true_description_are_not_drawn_and_counted(cases, judges):
    unknown = [replace(case, description=None) for case in cases[:20]]
    everything = [*unknown, *cases[20:]]
    drawn = draw_cases(everything, None, seed=0)
    assert drawn == cases[20:]
    replies = {
        name: {case.case_id: Reply("haha, study", True) for case in drawn} for name in (A, B)
    }
    rows = compare_replies("world", drawn, replies, [(A, B)], judges)
    assert figures_of(rows, everything)["win_without_truth"].value == 20
    with pytest.raises(ValueError, match="20 of 150 cases have no true description"):
        compare_replies("world", everything, replies, [(A, B)], judges)


def test_the_draw_is_a_function_of_seed_and_cases(cases):
    drawn = draw_cases(cases, 40, seed=0)
    assert len(drawn) == 40
    assert drawn == [case for case in cases if case in drawn]
    assert {case.case_id for case in draw_cases(cases[::-1], 40, seed=0)} == {
        case.case_id for case in drawn
    }
    assert {case.case_id for case in drawn} < {
        case.case_id for case in draw_cases(cases, 60, seed=0)
    }
    assert draw_cases(cases, 40, seed=1) != drawn
    assert draw_cases(cases, 1000, seed=0) == cases

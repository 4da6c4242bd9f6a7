"""Every figure of the summary, computed again from the verdicts' Parquet file."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from alignxplore_trl.data.world import OPPOSITE, stated_poles
from alignxplore_trl.evaluation.scoring import MethodSetting, score, write_verdicts
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
from alignxplore_trl.evaluation.summary import read_differences, summarise
from alignxplore_trl.reporting.charts import accuracy_chart
from alignxplore_trl.reporting.tables import accuracy_table, difference_table
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.parsing import Inference, parse_completion

READER4, READER8 = MethodSetting("reader", "base4"), MethodSetting("reader", "base8")


@pytest.fixture
def evaluation(tmp_path, cases, methods, judges):
    """The summary, and the verdicts as they were written to disk."""
    rows = score(cases, methods, judges, lambda text: len(text.split()))
    write_verdicts(tmp_path / "verdicts.parquet", rows)
    bootstrap = ClusteredBootstrap([case.cluster for case in cases])
    summary = summarise("world", cases, methods, rows, [(READER8, READER4)], bootstrap)
    return summary, pd.read_parquet(tmp_path / "verdicts.parquet")


def test_accuracies_and_counts(evaluation):
    summary, table = evaluation
    groups = table.groupby(["judge", "method", "setting"])
    assert len(groups) == 10
    for (judge, method, setting), group in groups:
        where = f"world/{judge}/{method}/{setting}"
        assert summary[f"acc_jud/{where}"] == pytest.approx(group["correct"].mean())
        assert summary[f"acc_jud/{where}/low"] <= summary[f"acc_jud/{where}"]
        assert summary[f"acc_jud/{where}/high"] >= summary[f"acc_jud/{where}"]
        assert summary[f"cases/{where}"] == len(group)
        assert summary[f"judge_failures/{where}"] == group["correct"].isna().sum()
        assert summary[f"ties/{where}"] == (group["p_correct"] == 0.5).sum()
        if group["position_gap"].notna().any():
            gap = summary[f"position_gap/{where}"]
            assert gap == pytest.approx(group["position_gap"].mean())
    assert summary["acc_jud/world/judge/golden/base4"] == 1.0
    assert summary["acc_jud/world/judge/null/base4"] == 0.0
    assert summary["ties/world/judge/null/base4"] == 150
    assert summary["judge_failures/world/test_judge/null/base4"] > 0
    assert summary["judge_failures/world/judge/null/base4"] == 0


def test_a_method_is_not_credited_where_its_completions_are_malformed(evaluation):
    _, table = evaluation
    reader = table[(table["method"] == "reader") & (table["judge"] == "judge")]
    malformed = reader["format_problem"].notna()
    assert 0 < malformed.sum() < len(reader)
    assert (reader.loc[malformed, "correct"] == 0).all()


def test_lengths_and_format(evaluation):
    summary, table = evaluation
    for setting in ("base4", "base8"):
        rows = table.query("judge == 'test_judge' and method == 'reader' and setting == @setting")
        where = f"world/test_judge/reader/{setting}"
        assert summary[f"well_formed/{where}"] == pytest.approx(
            rows["format_problem"].isna().mean()
        )
        assert summary[f"ended/{where}"] == pytest.approx(rows["ended"].mean())
        assert summary[f"completion_tokens/{where}"] == rows["completion_tokens"].mean()
        lengths = rows["description"].dropna().str.split().str.len()
        assert summary[f"description_tokens/{where}"] == pytest.approx(lengths.mean())


def test_statements_against_the_users_directions(evaluation, cases):
    summary, table = evaluation
    directions = {case.case_id: set(case.directions.values()) for case in cases}
    for setting in ("base4", "base8"):
        rows = table.query("judge == 'judge' and method == 'reader' and setting == @setting")
        true = stated = wanted = contradicted = repeated = statements = unsupported = written = 0
        for case_id, completion in zip(rows["case_id"], rows["completion"], strict=True):
            wanted += len(directions[case_id])
            inference = parse_completion(completion)
            if isinstance(inference, Inference):
                written += 1
                poles = stated_poles(inference.description)
                statements += len(poles)
                stated += len(set(poles))
                repeated += len(poles) - len(set(poles))
                true += len(set(poles) & directions[case_id])
                contradicted += any(OPPOSITE[pole] in poles for pole in poles)
                unsupported += len(set(poles) - set(stated_poles(inference.reasoning)))
        expected = {
            "precision": true / stated,
            "recall": true / wanted,
            "contradictions": contradicted / written,
            "repetitions": repeated / statements,
            "unsupported": unsupported / stated,
        }
        found = {metric: summary[f"{metric}/world/judge/reader/{setting}"] for metric in expected}
        assert found == pytest.approx(expected)
        assert min(found.values()) > 0


def test_paired_differences(evaluation):
    summary, table = evaluation
    for judge in ("judge", "test_judge"):
        mine = table[(table["judge"] == judge) & (table["method"] == "reader")]
        by_case = mine.pivot(index="case_id", columns="setting", values="correct").dropna()
        differences = (by_case["base8"] - by_case["base4"]).to_numpy()
        where = f"world/{judge}/reader-reader/base8-base4"
        assert summary[f"acc_jud_difference/{where}"] == pytest.approx(differences.mean())
        assert summary[f"paired_cases/{where}"] == len(by_case)
        half = 1.96 * differences.std() / np.sqrt(len(differences))
        low = summary[f"acc_jud_difference/{where}/low"]
        assert low == pytest.approx(differences.mean() - half, abs=0.02)


def test_figures_without_meaning_are_left_out(evaluation):
    summary, _ = evaluation
    metrics = {
        method: {key.split("/")[0] for key in summary if f"/judge/{method}/base4" in key}
        for method in ("null", "golden", "longer_reply", "reader")
    }
    counts = {"acc_jud", "cases", "judge_failures", "ties"}
    stated = {"description_tokens", "precision", "recall", "contradictions", "repetitions"}
    assert metrics["longer_reply"] == counts
    counts |= {"position_gap"}
    assert metrics["null"] == counts
    assert metrics["golden"] == counts | stated
    assert metrics["reader"] == counts | stated | {
        "well_formed", "ended", "completion_tokens", "unsupported", "dropped_signals",
        "shortened_texts",
    }  # fmt: skip


def test_what_the_token_budget_kept_from_a_model_is_counted(cases, methods, judges):
    cut = [replace(said, dropped_signals=2, shortened_texts=1) for said in methods[READER4]]
    rows = score(cases, {READER4: cut}, {"judge": judges["judge"]}, len)
    bootstrap = ClusteredBootstrap([case.cluster for case in cases])
    summary = summarise("world", cases, {READER4: cut}, rows, [], bootstrap)
    assert summary["dropped_signals/world/judge/reader/base4"] == 300
    assert summary["shortened_texts/world/judge/reader/base4"] == 150


def test_the_summary_is_flat_json(evaluation):
    summary, _ = evaluation
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {len(key.split("/")) for key in summary} == {5, 6}
    assert {key.split("/")[5] for key in summary if key.count("/") == 5} == {"low", "high"}


def test_a_judge_that_never_answers_leaves_the_accuracy_unknown(cases, methods, judges):
    judges["judge"].judge = lambda questions: [None] * len(questions)
    rows = score(cases, methods, {"judge": judges["judge"]}, len)
    bootstrap = ClusteredBootstrap([case.cluster for case in cases])
    summary = summarise("world", cases, methods, rows, [(READER8, READER4)], bootstrap)
    assert summary["acc_jud/world/judge/golden/base4"] is None
    assert summary["acc_jud/world/judge/golden/base4/low"] is None
    assert summary["judge_failures/world/judge/golden/base4"] == 150
    assert summary["acc_jud/world/judge/reader/base4"] == 0.0  # its malformed completions
    assert summary["acc_jud/world/judge/longer_reply/base4"] is not None


def test_differences_are_read_and_unknown_ones_refused(methods):
    known = ["null", "golden", "reader", "untrained"]
    evaluated = list(methods)
    asked = ["reader/base8 - reader/base4", "untrained/base4 - null/base4"]
    assert read_differences(asked, evaluated, known) == [(READER8, READER4)]
    with pytest.raises(UserError) as error:
        read_differences(["reader/base8", "reeder/base8 - null/base4"], evaluated, known)
    assert len(error.value.problems) == 2
    assert "'reeder/base8 - null/base4' found" in error.value.problems[1]
    assert "methods are null, golden, reader, untrained" in error.value.problems[1]


def test_tables_and_charts_show_the_summary(evaluation, tmp_path):
    summary, table = evaluation
    screen = accuracy_table([summary], "world")
    accuracy = table.query("judge == 'judge' and method == 'reader' and setting == 'base8'")
    (row,) = [line for line in screen.splitlines() if line.startswith("reader") and "base8" in line]
    assert f" {100 * accuracy['correct'].mean():.1f} (" in row
    assert f" {100 * summary['recall/world/judge/reader/base8']:.1f} " in row
    assert "Judges gave no answer on" in screen
    assert "reader base8 minus reader base4" in difference_table({"seed 0": summary}, "world")
    accuracy_chart(summary, "world", tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000

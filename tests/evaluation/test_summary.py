"""Every figure of the summary, computed again from the Parquet files."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from alignxplore_trl.data.world import OPPOSITE, stated_poles
from alignxplore_trl.evaluation.files import (
    write_cases,
    write_descriptions,
    write_groups,
    write_verdicts,
)
from alignxplore_trl.evaluation.groups import FEWEST_CASES, accuracy_by_group
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.evaluation.scoring import score
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap
from alignxplore_trl.evaluation.summary import summarise
from alignxplore_trl.reporting.charts import accuracy_chart
from alignxplore_trl.reporting.results import read_figures
from alignxplore_trl.reporting.tables import accuracy_table, difference_table
from alignxplore_trl.text.parsing import Inference, parse_completion
from tests.evaluation.conftest import WordingGenerator, WordingJudge

READER4, READER8 = MethodSetting("reader", "base4"), MethodSetting("reader", "base8")
NULL, GOLDEN = MethodSetting("null", "base4"), MethodSetting("golden", "base4")
LONGER = MethodSetting("longer_reply", "base4")
DIFFERENCES = [(READER8, READER4), (GOLDEN, READER8), (READER4, LONGER), (NULL, NULL)]
PLACE = ["judge", "method", "setting"]


def words(text):
    return len(text.split())


def summary_of(cases, methods, judges, generators, differences=DIFFERENCES):
    """The summary, with the scores and groups that it was made from."""
    scores = score("world", cases, methods, judges, generators, words, faithfulness=True)
    bootstrap = ClusteredBootstrap([case.cluster for case in cases])
    groups = accuracy_by_group(cases, scores.verdicts, bootstrap)
    return summarise("world", cases, scores, groups, differences, bootstrap), scores, groups


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, cases, methods):
    """The summary, and the tables as they were written to disk."""
    tmp_path = tmp_path_factory.mktemp("evaluation")
    judges = {"judge": WordingJudge(), "test_judge": WordingJudge(0.3, silent_about="indoors")}
    generators = {"judge": WordingGenerator(), "generator": WordingGenerator("indoors")}
    summary, scores, groups = summary_of(cases, methods, judges, generators)
    write_verdicts(tmp_path / "verdicts.parquet", scores.verdicts)
    write_descriptions(tmp_path / "descriptions.parquet", scores.descriptions)
    write_cases(tmp_path / "cases.parquet", {"world": cases})
    write_groups(tmp_path / "groups.parquet", groups.rows)
    names = ("verdicts", "descriptions", "cases", "groups")
    tables = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in names}
    return summary, SimpleNamespace(**tables)


def correct_by_name(table, metric, judge):
    """One column per (method, setting), one row per case."""
    rows = table.query("metric == @metric and judge == @judge")
    return rows.pivot(index="case_id", columns=["method", "setting"], values="correct")


def test_accuracies_and_counts(evaluation):
    summary, tables = evaluation
    groups = tables.verdicts.query("metric == 'acc_jud'").groupby(PLACE)
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
    _, tables = evaluation
    place = ["benchmark", "method", "setting", "case_id"]
    reader = tables.verdicts.merge(tables.descriptions, on=place).query("method == 'reader'")
    malformed = reader["format_problem"].notna()
    assert set(reader.loc[malformed, "metric"]) == {"acc_jud", "acc_gen"}
    assert 0 < malformed.sum() < len(reader)
    assert (reader.loc[malformed, "correct"] == 0).all()


def test_generators_accuracies(evaluation):
    summary, tables = evaluation
    groups = tables.verdicts.query("metric == 'acc_gen'").groupby(PLACE)
    for (generator, method, setting), group in groups:
        where = f"world/{generator}/{method}/{setting}"
        assert summary[f"acc_gen/{where}"] == pytest.approx(group["correct"].mean())
        assert summary[f"acc_gen/{where}/low"] <= summary[f"acc_gen/{where}"]
        assert summary[f"generator_failures/{where}"] == group["correct"].isna().sum()
        assert ((group["margin"] > 0) == (group["correct"] == 1)).all()
    found = {key.method for key in read_figures(summary) if key.metric == "acc_gen"}
    assert found == {"golden", "reader"}
    assert summary["acc_gen/world/judge/golden/base4"] == 1.0
    assert 0 < summary["acc_gen/world/generator/reader/base8"] < 1
    assert summary["generator_failures/world/generator/reader/base8"] > 0


def test_agreement_of_reasonings_and_descriptions(evaluation):
    summary, tables = evaluation
    for judge in ("judge", "test_judge"):
        for setting in ("base4", "base8"):
            rows = tables.verdicts.query("judge == @judge and method == 'reader'")
            rows = rows[rows["setting"] == setting]
            leaning = rows.pivot(index="case_id", columns="metric", values="p_correct") - 0.5
            both = leaning[["acc_jud", "reasoning"]].replace(0.0, np.nan).dropna()
            expected = (both["acc_jud"] * both["reasoning"] > 0).mean()
            found = summary[f"reasoning_agreement/world/{judge}/reader/{setting}"]
            assert found == pytest.approx(expected)
            assert 0.5 < found < 1


def test_groups(evaluation, cases):
    summary, tables = evaluation
    directions = tables.cases["directions"].map(json.loads)
    in_groups = tables.cases[["case_id"]].assign(group=directions.map(lambda d: list(d.items())))
    in_groups = in_groups.explode("group")
    in_groups[["dimension", "pole"]] = in_groups["group"].tolist()
    rows = tables.verdicts[tables.verdicts["metric"] != "reasoning"].merge(in_groups, on="case_id")
    by_group = rows.groupby(["metric", *PLACE, "dimension", "pole"])["correct"]
    expected = by_group.agg(["count", "mean"])
    found = tables.groups.set_index(["metric", *PLACE, "dimension", "pole"]).sort_index()
    assert list(found.index) == list(expected.index)
    assert list(found["cases"]) == list(expected["count"])
    assert found["accuracy"].to_numpy() == pytest.approx(expected["mean"].to_numpy())
    assert (found["low"] <= found["accuracy"]).all()
    assert (found["high"] >= found["accuracy"]).all()

    large = expected[expected["count"] >= FEWEST_CASES]["mean"]
    by_dimension = large.groupby(["metric", *PLACE, "dimension"])
    gaps = (by_dimension.max() - by_dimension.min()).groupby(["metric", *PLACE]).max()
    for (metric, *place), gap in gaps.items():
        key = "/".join([f"{metric}_group_gap", "world", *place])
        assert summary[key] == pytest.approx(gap)
        assert summary[f"{key}/low"] <= gap <= summary[f"{key}/high"]
    assert len(gaps) == sum("_group_gap/" in key for key in summary) / 3
    assert summary["cases_without_directions/world"] == 0


def test_lengths_and_format(evaluation):
    summary, tables = evaluation
    for setting in ("base4", "base8"):
        rows = tables.descriptions.query("method == 'reader' and setting == @setting")
        where = f"world/test_judge/reader/{setting}"
        assert summary[f"well_formed/{where}"] == pytest.approx(
            rows["format_problem"].isna().mean()
        )
        assert summary[f"ended/{where}"] == pytest.approx(rows["ended"].mean())
        for metric in ("completion_tokens", "prompt_tokens", "seconds"):
            assert summary[f"{metric}/{where}"] == pytest.approx(rows[metric].mean())
            assert summary[f"{metric}/{where}"] == summary[f"{metric}/world/judge/reader/{setting}"]
        lengths = rows["description"].dropna().str.split().str.len()
        assert summary[f"description_tokens/{where}"] == pytest.approx(lengths.mean())


def test_statements_against_the_users_directions(evaluation, cases):
    summary, tables = evaluation
    directions = {case.case_id: set(case.directions.values()) for case in cases}
    for setting in ("base4", "base8"):
        rows = tables.descriptions.query("method == 'reader' and setting == @setting")
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


def where_of(judge, pair):
    first, second = pair
    names = f"{first.method}-{second.method}/{first.setting}-{second.setting}"
    return f"world/{judge}/{names}"


def test_paired_differences(evaluation):
    summary, tables = evaluation
    for judge in ("judge", "test_judge"):
        columns = correct_by_name(tables.verdicts, "acc_jud", judge)
        for first, second in DIFFERENCES[:3]:
            differences = (columns[first] - columns[second]).dropna().to_numpy()
            where = where_of(judge, (first, second))
            assert summary[f"acc_jud_difference/{where}"] == pytest.approx(differences.mean())
            assert summary[f"paired_cases/{where}"] == len(differences)
            half = 1.96 * differences.std() / np.sqrt(len(differences))
            low = summary[f"acc_jud_difference/{where}/low"]
            assert low == pytest.approx(differences.mean() - half, abs=0.02)


def test_p_values_and_their_correction(evaluation):
    summary, tables = evaluation
    for judge in ("judge", "test_judge"):
        columns = correct_by_name(tables.verdicts, "acc_jud", judge)
        p_values = {"mcnemar_p": [], "t_test_p": []}
        for first, second in DIFFERENCES[:3]:
            both = pd.DataFrame({"a": columns[first], "b": columns[second]}).dropna()
            p_values["mcnemar_p"].append(mcnemar(pd.crosstab(both["a"], both["b"])).pvalue)
            p_values["t_test_p"].append(stats.ttest_rel(both["a"], both["b"]).pvalue)
        for metric, own in p_values.items():
            own.append(1.0)  # null against itself
            corrected = multipletests(own, method="holm")[1]
            at = [where_of(judge, pair) for pair in DIFFERENCES]
            found = [summary[f"{metric}/{where}"] for where in at]
            assert found == pytest.approx(own)
            assert [summary[f"{metric}_corrected/{where}"] for where in at] == pytest.approx(
                corrected
            )
            assert len(set(found)) > 1


def test_generators_differences(evaluation):
    summary, tables = evaluation
    found = [key for key in read_figures(summary) if key.metric == "acc_gen_difference"]
    for generator in ("judge", "generator"):
        columns = correct_by_name(tables.verdicts, "acc_gen", generator)
        for first, second in DIFFERENCES[:2]:
            expected = (columns[first] - columns[second]).mean()
            where = where_of(generator, (first, second))
            assert summary[f"acc_gen_difference/{where}"] == pytest.approx(expected)
    # Nothing generates without a description: the other two pairs aren't compared.
    assert len(found) == 4


def test_a_method_without_entries_is_compared_with_nothing(cases, methods, judges):
    silent = {**methods, MethodSetting("silent", "base4"): []}
    pair = (MethodSetting("silent", "base4"), READER4)
    summary, _, _ = summary_of(cases, silent, judges, {}, [pair])
    where = where_of("judge", pair)
    assert summary[f"paired_cases/{where}"] == 0
    for metric in ("acc_jud_difference", "mcnemar_p", "t_test_p", "mcnemar_p_corrected"):
        assert summary[f"{metric}/{where}"] is None


def test_figures_without_meaning_are_left_out(evaluation):
    summary, _ = evaluation
    metrics = {
        method: {key.split("/")[0] for key in summary if f"/test_judge/{method}/base4" in key}
        for method in ("null", "golden", "longer_reply", "reader")
    }
    counts = {"acc_jud", "acc_jud_group_gap", "cases", "judge_failures", "ties"}
    stated = {"description_tokens", "precision", "recall", "contradictions", "repetitions"}
    assert metrics["longer_reply"] == counts
    counts |= {"position_gap"}
    assert metrics["null"] == counts
    assert metrics["golden"] == counts | stated
    assert metrics["reader"] == counts | stated | {
        "well_formed", "ended", "completion_tokens", "prompt_tokens", "seconds", "unsupported",
        "dropped_signals", "shortened_texts", "reasoning_agreement",
    }  # fmt: skip


def test_what_the_token_budget_kept_from_a_model_is_counted(cases, methods, judges):
    cut = [replace(said, dropped_signals=2, shortened_texts=1) for said in methods[READER4]]
    summary, _, _ = summary_of(cases, {READER4: cut}, {"judge": judges["judge"]}, {}, [])
    assert summary["dropped_signals/world/judge/reader/base4"] == 300
    assert summary["shortened_texts/world/judge/reader/base4"] == 150


def test_the_summary_is_flat_json(evaluation):
    summary, _ = evaluation
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {len(key.split("/")) for key in summary} == {2, 5, 6}
    assert {key.split("/")[5] for key in summary if key.count("/") == 5} == {"low", "high"}


def test_a_judge_that_never_answers_leaves_the_accuracy_unknown(cases, methods, judges):
    judges["judge"].judge = lambda questions: [None] * len(questions)
    summary, _, groups = summary_of(cases, methods, {"judge": judges["judge"]}, {})
    assert summary["acc_jud/world/judge/golden/base4"] is None
    assert summary["acc_jud/world/judge/golden/base4/low"] is None
    assert summary["judge_failures/world/judge/golden/base4"] == 150
    assert summary["acc_jud/world/judge/reader/base4"] == 0.0  # its malformed completions
    assert summary["acc_jud/world/judge/longer_reply/base4"] is not None
    golden = [row for row in groups.rows if row.method == "golden"]
    assert {(row.cases, row.accuracy) for row in golden} == {(0, None)}
    assert {gap.method for gap in groups.gaps} == {"longer_reply"}


def test_tables_and_charts_show_the_summary(evaluation, tmp_path):
    summary, tables = evaluation
    screen = accuracy_table([summary], "world")
    accuracy = correct_by_name(tables.verdicts, "acc_jud", "judge")[READER8].mean()
    (row,) = [line for line in screen.splitlines() if line.startswith("reader") and "base8" in line]
    assert f" {100 * accuracy:.1f} (" in row
    assert f" {100 * summary['recall/world/judge/reader/base8']:.1f} " in row
    assert "Judges gave no answer on" in " ".join(screen.split())
    assert "reader base8 minus reader base4" in difference_table({"seed 0": summary}, "world")
    accuracy_chart(summary, "world", tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000

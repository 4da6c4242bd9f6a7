"""Tables say what the summaries say, and fit the screen."""

import re

from alignxplore_trl.reporting.results import Figure, FigureKey, read_figures
from alignxplore_trl.reporting.tables import accuracy_table, comparison_name, difference_table


def row_of(table, *words):
    (row,) = [line for line in table.splitlines() if all(word in line for word in words)]
    return " ".join(row.replace("|", " ").split())


def test_figures_are_read_and_run_facts_passed_over(summaries):
    figures = read_figures(summaries[0])
    assert figures[FigureKey("acc_jud", "world", "judge", "rl_base8", "base8")] == Figure(
        0.8, 0.8 - 0.04, 0.8 + 0.04
    )
    assert len(figures) == 2 * (4 * 3 + 2 * 5 + 2)


def test_one_summary_shows_intervals(summaries):
    table = accuracy_table(summaries[:1], "world")
    assert row_of(table, "rl_base8") == (
        "rl_base8 base8 80.0 (76.0–84.0) 75.0 (71.0–79.0) 97.0 71.2 62.0 3.0 7"
    )
    assert row_of(table, "golden") == (
        "golden base4 100.0 (96.0–100.0) 100.0 (96.0–100.0) – – – – –"
    )
    assert "with 95 % interval; 1000 cases per row" in table
    assert "Judges answered every question." in " ".join(table.split())


def test_several_summaries_show_mean_and_range(summaries):
    table = accuracy_table(summaries, "world")
    assert "81.0 (80.0–82.0) 76.0 (75.0–77.0)" in row_of(table, "rl_base8")
    assert "mean of 3 seeds (lowest–highest)" in table


def test_the_screen_is_110_columns_wide(summaries):
    tables = [
        accuracy_table(summaries[:1], "world"),
        accuracy_table(summaries, "world"),
        difference_table({"seed 0": summaries[0]}, "world"),
    ]
    for table in tables:
        assert max(map(len, table.splitlines())) <= 110


def test_a_method_that_is_the_same_in_every_setting_has_one_row(summaries):
    for key in [key for key in summaries[0] if "/null/base4" in key]:
        summaries[0][key.replace("base4", "base8")] = summaries[0][key]
    assert row_of(accuracy_table(summaries[:1], "world"), "null").startswith("null any ")
    summaries[0]["acc_jud/world/test_judge/null/base8"] += 0.01
    table = accuracy_table(summaries[:1], "world")
    assert row_of(table, "null", "base4")
    assert row_of(table, "null", "base8")


def test_a_row_that_a_seed_lacks_says_so(summaries):
    for key in [key for key in summaries[2] if "/rl_base8/" in key]:
        del summaries[2][key]
    table = accuracy_table(summaries, "world")
    assert row_of(table, "rl_base8").startswith("rl_base8 (2 of 3 seeds) base8 80.5 (80.0–81.0)")
    assert "seeds)" not in row_of(table, "rl_streaming")


def test_unanswered_questions_are_reported(summaries):
    summaries[0]["judge_failures/world/judge/null/base4"] = 12
    table = " ".join(accuracy_table(summaries[:1], "world").split())
    assert "Judges gave no answer on 12 of 8000 rows, which are left out." in table


def test_an_unknown_accuracy_is_no_number(summaries):
    for end in ("", "/low", "/high"):
        summaries[0][f"acc_jud/world/test_judge/rl_base8/base8{end}"] = None
    row = row_of(accuracy_table(summaries[:1], "world"), "rl_base8")
    assert row.startswith("rl_base8 base8 80.0 (76.0–84.0) – 97.0")


def test_other_benchmarks_stay_out(summaries):
    summaries[0]["acc_jud/psoups/judge/null/base4"] = 0.123
    assert "12.3" not in accuracy_table(summaries[:1], "world")
    assert "12.3" in accuracy_table(summaries[:1], "psoups")


def test_markdown_has_the_same_cells(summaries):
    for count in (1, 3):
        plain = accuracy_table(summaries[:count], "world")
        markdown = accuracy_table(summaries[:count], "world", "markdown")
        assert re.match(r"\| method +\| setting +\| +judge \|", markdown)
        for method in ("null", "golden", "rl_base8", "rl_streaming"):
            assert row_of(plain, method) == row_of(markdown, method)


def test_differences_of_one_seed(summaries):
    table = difference_table({"seed 0": summaries[0]}, "world")
    assert row_of(table, " judge ", "rl_base8") == (
        "rl_streaming streaming4+4 minus rl_base8 base8 judge +4.0 (+2.0 to +6.0)"
    )
    assert "mean" not in table


def test_differences_of_several_seeds_stand_side_by_side_with_their_mean(summaries):
    del summaries[1]["acc_jud_difference/world/judge/rl_streaming-rl_base8/streaming4+4-base8"]
    table = difference_table({f"seed {i}": s for i, s in enumerate(summaries)}, "world")
    assert row_of(table, " judge ", "rl_base8").endswith("– +6.0 (+4.0 to +8.0) +5.0")
    assert row_of(table, "test_judge", "rl_base8").endswith("+1.0 (-1.0 to +3.0) +0.0")
    assert "mean of 3" in table


def test_names_of_comparisons():
    key = FigureKey("acc_jud_difference", "world", "judge", "cold_start-backbone", "base4-base8")
    assert comparison_name(key) == "cold_start base4 minus backbone base8"

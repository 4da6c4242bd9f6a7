"""The report says what the evaluation's files say, and obeys no text in them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.reporting import report_sections
from alignxplore_trl.reporting.evaluations import (
    Evaluations,
    open_evaluations,
    read_methods,
    signals_read,
    stages_of,
)
from alignxplore_trl.reporting.pages import (
    Drawing,
    Numbers,
    Section,
    Text,
    render_template,
    svg_for_page,
    visible,
)
from alignxplore_trl.reporting.report import Report, make_report, render_html, render_markdown
from alignxplore_trl.reporting.sampled_cases import sample_cases
from alignxplore_trl.reporting.tables import Table
from alignxplore_trl.reporting.word_clouds import count_words, word_cloud
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.metrics import append_metrics
from alignxplore_trl.signals import Attributes, Comparison, Post
from tests.reporting.evaluation_folder import EvaluationFolder
from tests.reporting.test_inspection import contrast

BENCHMARKS = {"world": 0.0, "world_drift0": 0.0, "world_drift4": 0.2}
SECTIONS = ["results", "comparisons", "training", "efficiency", "drift", "calibration", "groups",
            "win-rates", "words", "cases", "facts", "responsible-use"]  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script> </dd></article><img src=x onerror=alert(1)> {{ 7 * 7 }} "
    "\x1b[2J \u202eevil `x` ``` | a | [link](https://example.org) &amp; \"'"
)
VOID = {"meta", "img", "br", "path", "use"}


class Page(HTMLParser):
    """A page's tags, attributes and texts; fails where a tag is closed that isn't open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.styles = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID or self.get_starttag_text().endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            self.styles += data
        elif "script" not in self._open:
            self.text += data


def report_of(folder: Path, runs=None, cases: int = 5) -> Report:
    return make_report(
        open_evaluations([folder]), runs or {}, charts=folder / "charts", reference="backbone",
        methods=None, cases=cases, bins=10, seed=0,
    )  # fmt: skip


def results_of(folders, reference="backbone") -> Table:
    """The main table alone, which is quicker to make."""
    found = report_sections.results(
        Evaluations(open_evaluations(folders), [], folders[0] / "charts"), reference
    )
    return next(tables(found.blocks))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    return EvaluationFolder(benchmarks=BENCHMARKS).write(outputs, "mine")


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    training = tmp_path_factory.mktemp("training")
    for step in range(20):
        row = {"step": step, "reward": 0.5 + step / 100, "format/well_formed": 1.0}
        append_metrics(training / "metrics.jsonl", row)
    runs = {"rl_base4": {"seed 0": training}, "rl_base8": {"seed 0": training / "gone"}}
    return report_of(folder, runs)


@pytest.fixture(scope="module")
def page(report) -> str:
    return render_html(report)


def section(report, anchor: str) -> Section:
    (found,) = [each for each in (*report.sections, *report.closing) if each.anchor == anchor]
    return found


def tables(blocks):
    for block in blocks:
        if isinstance(block, Numbers):
            yield block.table
        yield from tables(getattr(block, "blocks", ()))


def texts(found: Section) -> str:
    return " ".join(block.text for block in found.blocks if isinstance(block, Text))


def row_of(table: Table, *cells: str):
    (row,) = [row for row in table.rows if all(cell in row for cell in cells)]
    return dict(zip(table.headers, row, strict=True))


def verdicts(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "completions" / "verdicts.parquet")


def test_the_page_has_all_sections_and_needs_nothing_else(page):
    read = Page(page)
    assert [anchor for anchor in read.ids if anchor in SECTIONS] == SECTIONS
    for anchor in SECTIONS:
        assert ("href", f"#{anchor}") in read.attributes
    for name, value in read.attributes:
        assert not name.startswith("on"), "no handlers in attributes"
        if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert value.startswith(("#", "data:image/png;base64,"))
        for address in re.findall(r"url\(([^)]*)\)", value):
            assert address.startswith("#")
    assert "url(" not in read.styles
    assert "@import" not in read.styles
    assert not {"link", "iframe", "object", "base", "form"} & (set(read.tags) - {"form"})
    assert read.tags.count("script") == 1
    assert ("name", "viewport") in read.attributes
    assert "prefers-color-scheme: dark" in read.styles


def test_the_browser_is_told_to_load_nothing_and_run_only_this_script(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy[1].startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy[1]


def test_ids_are_unique_over_all_charts(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids))


def test_colours_can_be_told_apart_in_both_schemes(page):
    """Contrast of text and ground at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block))
               for block in re.findall(r":root \{([^}]*)\}", page)]  # fmt: skip
    assert len(schemes) == 2
    for colours in schemes:
        for text in ("text", "quiet", "mark", "wrong"):
            assert contrast(colours[text], colours["ground"]) >= 4.5


def test_accuracies_are_those_of_the_verdicts(report, folder):
    found = verdicts(folder)
    table = next(tables(section(report, "results").blocks))
    columns = {"judge": ("acc_jud", "judge"), "test_judge": ("acc_jud", "test_judge"),
               "judge (gen.)": ("acc_gen", "judge")}  # fmt: skip
    for column, (metric, judge) in columns.items():
        own = found[(found.benchmark == "world") & (found.metric == metric) & (found.judge == judge)
                    & (found.method == "rl_base4") & (found.setting == "base8")]  # fmt: skip
        shown = row_of(table, "rl_base4", "base8")[column]
        assert shown.startswith(f"{100 * own.correct.mean():.1f} (")


def test_marks_say_which_differences_are_significant(report, folder):
    summary = open_evaluations([folder])[0].summary
    table = next(tables(section(report, "results").blocks))
    for judge in ("judge", "test_judge"):
        for method in ("rl_base4", "cold_start_base4"):
            place = f"world/{judge}/{method}-backbone/base4-base4"
            sure = summary[f"mcnemar_p_corrected/{place}"] < 0.05
            better = summary[f"acc_jud_difference/{place}"] > 0
            mark = "≈" if not sure else "▲" if better else "▼"
            assert row_of(table, method, "base4")[judge].endswith(f" {mark}")
    assert not re.search("[▲▼≈]", row_of(table, "null", "base4")["judge"])
    assert "McNemar's exact test, corrected (Holm)" in table.note


def test_a_reference_that_nothing_was_compared_with_is_said(folder):
    table = results_of([folder], reference="golden")
    assert "No method was compared with golden in the same setting" in table.note
    assert not re.search("[▲▼≈]", "".join("".join(row) for row in table.rows))


def test_comparisons_show_both_tests(report, folder):
    summary = open_evaluations([folder])[0].summary
    table = next(tables(section(report, "comparisons").blocks))
    row = row_of(table, "rl_base4 base4 minus backbone base4", "test_judge")
    place = "world/test_judge/rl_base4-backbone/base4-base4"
    assert row["points"].startswith(f"{100 * summary[f'acc_jud_difference/{place}']:+.1f} (")
    assert row["cases"] == str(summary[f"paired_cases/{place}"])
    assert row["McNemar p"] == f"{summary[f'mcnemar_p/{place}']:.3f}".replace("0.000", "<0.001")
    assert row["t-test p"] == f"{summary[f't_test_p/{place}']:.3f}".replace("0.000", "<0.001")


def test_trainings_are_drawn_and_lost_ones_are_said(report):
    drawn, lost = section(report, "training").blocks[1:]
    (table,) = tables([drawn])
    assert row_of(table, "Reward") == {
        "run": "seed 0", "": "Reward", "first tenth": "0.505", "last tenth": "0.685"
    }  # fmt: skip
    assert "No metrics.jsonl is left of the training of seed 0" in lost.blocks[0].text


def test_efficiency_sets_costs_against_signals(report):
    (table,) = tables(section(report, "efficiency").blocks)
    at_once, in_rounds = row_of(table, "rl_base4", "base12"), row_of(table, "streaming4+4+4")
    assert (at_once["signals"], at_once["prompt tokens"]) == ("12", "270")
    assert (in_rounds["signals"], in_rounds["prompt tokens"]) == ("12", "40")
    assert float(at_once["s per case"]) > float(in_rounds["s per case"])


def test_a_round_without_an_earlier_description_begins_the_curve_of_rounds(report):
    (chart,) = [each for each in section(report, "efficiency").blocks if isinstance(each, Drawing)]
    assert "rl_streaming in rounds" in chart.markup
    assert "backbone in rounds" in chart.markup, "base4 and streaming4+4"
    assert "cold_start_base4" not in chart.markup, "a single point is no curve"


def test_drift_is_in_the_order_of_reversed_signals(report, folder):
    (table,) = tables(section(report, "drift").blocks)
    assert table.headers == ["method", "setting", "0", "4"]
    found = verdicts(folder)
    own = found[(found.benchmark == "world_drift4") & (found.judge == "judge")
                & (found.metric == "acc_jud") & (found.method == "rl_streaming")
                & (found.setting == "streaming4+4")]  # fmt: skip
    row = row_of(table, "rl_streaming", "streaming4+4")
    assert row["4"].startswith(f"{100 * own.correct.mean():.1f} (")


def test_calibration_is_that_of_all_verdicts_with_a_probability(report, folder):
    found = verdicts(folder)
    asked = found[(found.metric == "acc_jud") & found.p_correct.notna()]
    (table,) = tables(section(report, "calibration").blocks)
    for judge, own in asked.groupby("judge"):
        confidence = own.p_correct.where(own.p_correct > 0.5, 1 - own.p_correct)
        bins = (20 * (confidence - 0.5)).astype(int).clip(upper=9)
        right = (own.p_correct > 0.5).groupby(bins).agg(["mean", "size"])
        gap = (right["mean"] - confidence.groupby(bins).mean()).abs()
        error = (gap * right["size"]).sum() / len(own)
        assert row_of(table, judge)["ECE"] == f"{100 * error:.1f}"
        assert row_of(table, judge)["verdicts"] == f"{len(own):,}"


def test_groups_show_the_widest_gap(report, folder):
    groups = pd.read_parquet(folder / "completions" / "groups.parquet")
    own = groups[(groups.benchmark == "world") & (groups.judge == "judge")
                 & (groups.metric == "acc_jud") & (groups.method == "backbone")
                 & (groups.setting == "base4")]  # fmt: skip
    own = own[own.cases >= 5]
    several = own.groupby("dimension").accuracy.agg(["min", "max", "size"])
    several = several[several["size"] > 1]
    gaps = several["max"] - several["min"]
    row = row_of(next(tables(section(report, "groups").blocks)), "backbone", "base4", "judge")
    assert row["widest gap"] in set(gaps[gaps == gaps.max()].index)
    assert row["gap"] == f"{100 * gaps.max():+.1f}"
    assert row["mean gap"] == f"{100 * gaps.mean():+.1f}"


def test_groups_of_few_users_have_no_gap(tmp_path):
    folder = EvaluationFolder(count=6).write(tmp_path, "few")
    (table,) = tables(section(report_of(folder, {}), "groups").blocks)
    assert "Groups of fewer than 5 cases are left out." in table.note
    assert table.rows == []


def test_a_report_without_cases_is_made(folder):
    assert "No case is shown" in render_html(report_of(folder, cases=0))


def test_a_damaged_file_is_told(tmp_path):
    folder = EvaluationFolder(count=6).write(tmp_path, "cut")
    path = folder / "completions" / "verdicts.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"verdicts\.parquet: damaged; delete its folder"):
        open_evaluations([folder])


def test_win_rates_are_shown(report):
    (table,) = tables(section(report, "win-rates").blocks)
    assert list(table.rows[0]) == [
        "rl_base4 base4 over backbone base4", "world", "judge", "62.0 (55.0–69.0)", "7.5", "40",
    ]  # fmt: skip


def test_cases_are_drawn_by_hash_and_shown_with_truth_and_verdicts(report, folder, page):
    assert len(report.cases) == 5
    again = sample_cases(open_evaluations([folder])[0], "world", report.methods, 4, seed=0)
    assert again == report.cases[:4]
    other = sample_cases(open_evaluations([folder])[0], "world", report.methods, 4, seed=1)
    assert other != again
    found, text = verdicts(folder), Page(page).text
    for shown in report.cases:
        assert shown.case.target.chosen in text
        assert [inference.method for inference in shown.inferences] == report.methods
        for inference in shown.inferences:
            own = found[(found.case_id == shown.case.case_id) & (found.benchmark == "world")
                        & (found.method == inference.method.method) & (found.judge == "judge")
                        & (found.setting == inference.method.setting)
                        & (found.metric == "acc_jud")]  # fmt: skip
            outcome = {1.0: "right", 0.0: "wrong"}.get(own.correct.item(), "unanswered")
            assert inference.outcome == outcome
            assert (inference.malformed is None) == (inference.description is not None)


def test_counts_of_what_was_left_out(report, folder):
    found = verdicts(folder)
    own = found[(found.benchmark == "world") & (found.judge == "test_judge")
                & (found.method == "rl_base4") & (found.setting == "base12")]  # fmt: skip
    written = pd.read_parquet(folder / "completions" / "descriptions.parquet")
    written = written[(written.benchmark == "world") & (written.method == "rl_base4")
                      & (written.setting == "base12")]  # fmt: skip
    table = list(tables(section(report, "facts").blocks))[1]
    row = row_of(table, "rl_base4", "base12", "test_judge")
    assert row["no answer"] == str(own.correct.isna().sum())
    assert row["malformed"] == str(written.format_problem.notna().sum())
    assert row["dropped signals"] == str(written.dropped_signals.sum())


def test_addresses_and_folders_stay_private(page, folder):
    assert "http://private" not in page
    assert str(folder.parent) not in page


def test_the_best_policy_of_each_stage_is_shown(folder):
    (evaluation,) = open_evaluations([folder])
    found = stages_of([evaluation.figures], "world")
    assert list(found) == ["backbone", "cold start", "RL"]
    values = {
        key.method + key.setting: figure.value
        for key, figure in evaluation.figures.items()
        if key.metric == "acc_jud" and key.benchmark == "world" and key.judge == "judge"
        and key.method.startswith("rl_")
    }  # fmt: skip
    assert values["".join(found["RL"])] == max(values.values())


def test_chosen_methods_are_shown_and_others_refused(folder):
    (evaluation,) = open_evaluations([folder])
    chosen = read_methods(["golden/base4"], [evaluation.figures], "world")
    (shown,) = sample_cases(evaluation, "world", chosen, 1, seed=0)
    assert [each.method for each in shown.inferences] == [MethodSetting("golden", "base4")]
    assert shown.inferences[0].description is None
    with pytest.raises(
        UserError, match=r"page.methods: 'rl_base4' found, expected methods in thei"
    ):
        read_methods(["rl_base4"], [evaluation.figures], "world")


def test_several_seeds_are_averaged_and_marks_hold_in_each(tmp_path):
    folders = [EvaluationFolder(seed=seed).write(tmp_path, f"seed{seed}") for seed in range(2)]
    table = results_of(folders)
    summaries = [each.summary for each in open_evaluations(folders)]
    values = [summary["acc_jud/world/judge/rl_base4/base4"] for summary in summaries]
    shown = f"{50 * sum(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})"
    assert row_of(table, "rl_base4", "base4")["judge"].startswith(shown)
    place = "mcnemar_p_corrected/world/judge/rl_base4-backbone/base4-base4"
    sure = all(summary[place] < 0.05 for summary in summaries)
    assert row_of(table, "rl_base4", "base4")["judge"].endswith("▲") == sure
    assert "in every seed" in table.note


def test_two_evaluations_of_one_seed_are_refused(folder, tmp_path):
    other = EvaluationFolder(count=4).write(tmp_path, "other")
    with pytest.raises(UserError, match="2 evaluations of seed 0 found, expected one per seed"):
        open_evaluations([folder, other])


def test_an_older_evaluation_is_refused_with_all_that_it_lacks(tmp_path):
    folder = EvaluationFolder(count=4).write(tmp_path, "older")
    (folder / "completions" / "descriptions.parquet").unlink()
    old = verdicts(folder).drop(columns=["benchmark", "margin"])
    old.to_parquet(folder / "completions" / "verdicts.parquet")
    with pytest.raises(UserError) as error_info:
        open_evaluations([folder])
    lacking, gone = error_info.value.problems
    assert "no column benchmark, margin found" in lacking
    assert "descriptions.parquet: no such file" in gone


def test_what_is_missing_is_said(tmp_path):
    cases = [replace(case, directions=None) for case in World(seed=1).cases("test", 8)]
    folder = EvaluationFolder(cases=cases, win_rates=False).write(tmp_path, "little")
    found = report_of(folder)
    assert [each.anchor for each in found.missing] == ["training", "drift", "groups", "win-rates"]
    assert "make rl" in texts(section(found, "training"))
    assert "BENCHMARKS=" in texts(section(found, "drift"))
    page = render_html(found)
    for each in found.missing:
        assert texts(each) in Page(page).text


def test_hostile_texts_are_shown_and_not_obeyed(tmp_path):
    pair = Comparison(HOSTILE, HOSTILE + "a", HOSTILE + "b")
    signals = (pair, Post(HOSTILE, HOSTILE), Attributes(HOSTILE)) * 4
    cases = [
        replace(case, case_id=f"{HOSTILE}{number}", user_id=HOSTILE, signals=signals, target=pair,
                description=HOSTILE, directions={HOSTILE: HOSTILE})
        for number, case in enumerate(World(seed=1).cases("test", 6))
    ]  # fmt: skip
    folder = EvaluationFolder(cases=cases).write(tmp_path, "hostile")
    found = report_of(folder)
    page, markdown = render_html(found), render_markdown(found, "charts")
    read = Page(page)
    assert page.count("<script") == 1
    assert not [value for name, value in read.attributes if name == "src" and value == "x"]
    assert not set("\x1b\u202e") & set(page)
    assert read.text.count(visible(HOSTILE)) > 100
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert not set("\x1b\u202e") & set(markdown)
    assert "[link](https" not in markdown


@given(st.text(min_size=1))
def test_any_text_in_a_cell_is_shown_as_it_is(text):
    shown = Section("a", "b", [Numbers(Table([text], [[text]], text, names=1))])
    empty: list[str] = []
    report = {"title": text, "benchmark": text, "sections": [shown], "methods": empty,
              "cases": empty, "closing": empty}  # fmt: skip
    page = render_template("report.html.jinja", report=report, script="", digest="")
    read = Page(page)
    assert "script" not in read.tags
    # A parser takes both line ends for one, and drops what no page may hold.
    assert read.text.replace("\r", "").count(visible(text).replace("\r", "")) >= 3
    markdown = render_template("report.md.jinja", report=report, charts="charts")
    lines = [line for line in markdown.split("\n") if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [2, 2, 2]
    assert "<" not in markdown


def test_the_markdown_has_all_sections_and_every_picture_is_a_file(report, folder):
    markdown = render_markdown(report, "charts")
    pictures = re.findall(r"\]\(charts/(\w+\.png)\)", markdown)
    assert len(pictures) >= 8
    assert sorted(pictures) == sorted(path.name for path in (folder / "charts").iterdir())
    for anchor in SECTIONS:
        if anchor != "cases":
            assert f"## {section(report, anchor).title}" in markdown


def test_a_chart_takes_the_colours_of_its_page():
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://x"><svg width="100pt" id="a">'
        '<metadata>http://x</metadata><path id="b" style="stroke: #000000; fill: #ffffff"/>'
        '<use xlink:href="#b" clip-path="url(#c)"/></svg>'
    )
    assert svg_for_page(svg, "n") == (
        '<svg aria-hidden="true" style="min-width: 65pt" width="100pt" id="n-a">'
        '<path id="n-b" style="stroke: currentColor; fill: var(--ground)"/>'
        '<use xlink:href="#n-b" clip-path="url(#n-c)"/></svg>'
    )


def test_words_are_counted_without_those_of_every_description(tmp_path):
    counts = count_words(["prefers brief, warm", "the user prefers brief and Brief"])
    assert counts == {"brief": 3, "warm": 1}
    one, two = (word_cloud(counts, name, tmp_path) for name in ("one", "two"))
    assert one.markup == two.markup
    assert one.says == "Most frequent: brief (3), warm (1)."


@pytest.mark.parametrize(
    ("name", "read"),
    [("base4", (False, 4)), ("streaming4", (True, 4)), ("streaming4+4", (True, 8)), ("any", None)],
)
def test_settings_are_read_with_their_prefixes(name, read):
    assert signals_read(name) == read

"""A study's figures are those of its evaluations, computed again from their files."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignxplore_trl.reporting.studies import (
    Measure,
    Place,
    StudyFigures,
    figure_table,
    gain_table,
    ordering_lines,
    ratio_lines,
    read_evaluated_variant,
    signals_read,
    study_chart,
    study_summary,
    study_text,
)
from alignxplore_trl.run.errors import UserError
from tests.reporting.evaluations import write_evaluation

SEEDS = (0, 1, 2)
USERS = 60
# Variant -> method, and how often it is right.
RIGHT = {
    "backbone": ("backbone", 0.4),
    "both": ("rl_base4", 0.9),
    "RL only": ("rl_only_base4", 0.4),
}
JUDGED = Measure("acc_jud", "tiny")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants with three seeds on one benchmark; the judge doesn't answer now and then."""
    folder = tmp_path_factory.mktemp("evaluate")
    for (variant, (method, share)), seed in product(RIGHT.items(), SEEDS):
        shares = {(method, "base4"): share, ("golden", "base4"): 1.0}
        write_evaluation(folder / f"{variant}-{seed}", seed, {"world": shares}, users=USERS)
    return folder


@pytest.fixture(scope="module")
def figures(outputs: Path) -> StudyFigures:
    evaluated = [
        read_evaluated_variant(outputs / f"{variant}-{seed}", variant, seed, method)
        for (variant, (method, _)), seed in product(RIGHT.items(), SEEDS)
    ]
    metrics = ["acc_jud", "acc_gen", "seconds", "prompt_tokens"]
    return StudyFigures(evaluated, metrics, {variant: ["base4"] for variant in RIGHT}, seed=0)


def place(variant: str) -> Place:
    return Place(variant, "world", "base4")


def verdicts(outputs: Path, variant: str, seed: int, judge: str = "tiny") -> pd.Series:
    rows = pd.read_parquet(outputs / f"{variant}-{seed}" / "completions" / "verdicts.parquet")
    own = rows[(rows.method == RIGHT[variant][0]) & (rows.judge == judge)]
    return own.set_index("case_id").correct


def cells(table: str, *words: str) -> list[str]:
    (row,) = [line for line in table.splitlines() if all(word in line for word in words)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_columns_stand_once_for_each_judge_and_once_for_the_others(figures: StudyFigures) -> None:
    assert [measure.title for measure in figures.measures] == [
        "ACC_jud, tiny", "ACC_jud, tiny_test", "seconds per case",
    ]  # fmt: skip
    assert figures.missing == ["acc_gen", "prompt_tokens"]


def test_rows_hold_mean_lowest_and_highest_of_the_seeds(
    figures: StudyFigures, outputs: Path
) -> None:
    table = figure_table(figures, "markdown")
    for variant in RIGHT:
        means = [100 * verdicts(outputs, variant, seed).mean() for seed in SEEDS]
        expected = f"{np.mean(means):.1f} ({min(means):.1f}–{max(means):.1f})"
        assert cells(table, f"| {variant} ")[:3] == [variant, "base4", expected]
    summary = study_summary(figures)
    mean = np.mean([verdicts(outputs, "both", seed, "tiny_test").mean() for seed in SEEDS])
    assert summary["acc_jud/world/tiny_test/both/base4"] == pytest.approx(mean)
    assert summary["seconds/world/any/both/base4/lowest"] == pytest.approx(0.4)
    assert "golden" not in table


def test_differences_pair_the_cases_of_each_seed(figures: StudyFigures, outputs: Path) -> None:
    found = figures.difference(place("both"), place("backbone"), JUDGED)
    pairs = pd.concat(
        [verdicts(outputs, "both", s) - verdicts(outputs, "backbone", s) for s in SEEDS]
    ).dropna()
    assert found.value == pytest.approx(pairs.mean())
    # Two cases a user, drawn independently: nearly the plain standard error.
    half = 1.96 * pairs.std() / np.sqrt(len(pairs))
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    assert cells(gain_table(figures, "markdown") or "", "both minus backbone")[2] == (
        f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    )


def test_cases_with_another_target_are_no_pairs(outputs: Path, tmp_path: Path) -> None:
    write_evaluation(
        tmp_path, 0, {"world": {("rl_base4", "base4"): 0.9}}, users=USERS, posts="other"
    )
    evaluated = [
        read_evaluated_variant(outputs / "backbone-0", "backbone", 0, "backbone"),
        read_evaluated_variant(tmp_path, "both", 0, "rl_base4"),
    ]
    figures = StudyFigures(evaluated, ["acc_jud"], None, seed=0)
    assert figures.difference(place("both"), place("backbone"), JUDGED).value is None
    assert ordering_lines(figures, [["backbone", "both"]])[0] == (
        "- backbone < both: undecided (no cases in common) by ACC_jud, tiny; "
        "undecided (no cases in common) by ACC_jud, tiny_test."
    )


def test_orderings_are_answered_by_the_interval(figures: StudyFigures) -> None:
    up, same, down = ordering_lines(
        figures, [["backbone", "both"], ["backbone", "RL only"], ["both", "RL only"]]
    )
    assert up.startswith("- backbone < both: **holds**: +")
    assert same.startswith("- backbone < RL only: undecided: ")
    assert down.startswith("- both < RL only: **doesn't hold**: -")
    steps = ordering_lines(figures, [["RL only", "backbone", "both"], ["backbone", "both"]])
    assert [line.split(":")[0] for line in steps] == ["- RL only < backbone", "- backbone < both"]


def test_the_text_says_what_is_missing_and_how_it_was_measured(figures: StudyFigures) -> None:
    plain = study_text(figures, "Is it?", [["backbone", "both"]], [], "plain")
    assert plain.startswith("Is it?\n\nvariant ")
    assert "Mean of 3 seeds (lowest–highest); shares in %." in plain
    assert "The evaluations don't have: acc_gen, prompt_tokens." in plain
    assert "holds: +" in plain
    assert "**" not in plain


def test_an_unknown_figure_of_a_seed_is_said(figures: StudyFigures, outputs: Path) -> None:
    evaluated = [
        read_evaluated_variant(outputs / f"both-{seed}", "both", seed, "rl_base4") for seed in SEEDS
    ]
    key = next(each for each in evaluated[1].figures if each.metric == "seconds")
    own = dict(evaluated[1].figures)
    for judge in ("tiny", "tiny_test"):
        del own[type(key)("seconds", "world", judge, "rl_base4", "base4")]
    evaluated[1] = type(evaluated[1])("both", 1, own, evaluated[1].verdicts)
    table = figure_table(StudyFigures(evaluated, ["seconds"], None, seed=0), "markdown")
    assert cells(table, "both")[2] == "0.4 (0.4–0.4), 2 of 3 seeds"


def history(outputs: Path) -> StudyFigures:
    """One variant reads all signals again, the other goes on from its description."""
    sizes = (4, 8, 16)
    rounds = ["streaming4", "streaming4+4", "streaming4+4+4+4"]
    for seed in SEEDS:
        shares = {
            **{("rl_base4", f"base{size}"): 0.7 for size in sizes},
            **{("rl_streaming", name): 0.7 for name in reversed(rounds)},
        }
        write_evaluation(outputs / str(seed), seed, {"world": shares}, users=20)
    evaluated = [
        read_evaluated_variant(outputs / str(seed), variant, seed, method)
        for variant, method in (("at once", "rl_base4"), ("in rounds", "rl_streaming"))
        for seed in SEEDS
    ]
    return StudyFigures(evaluated, ["acc_jud", "seconds"], None, seed=0)


def test_a_study_over_settings_has_all_of_them_in_order(tmp_path: Path) -> None:
    figures = history(tmp_path)
    assert [each.setting for each in figures.places] == [
        "base4", "base8", "base16", "streaming4", "streaming4+4", "streaming4+4+4+4",
    ]  # fmt: skip
    gains = gain_table(figures, "markdown") or ""
    assert [line.split("|")[2].strip() for line in gains.splitlines()[2:]] == [
        "streaming4", "streaming4+4", "streaming4+4+4+4",
    ]  # fmt: skip
    (line,) = ordering_lines(figures, [["at once/base16", "in rounds/streaming4+4+4+4"]])
    assert line.startswith("- at once/base16 < in rounds/streaming4+4+4+4: ")
    with pytest.raises(UserError, match="'at once/base32' found"):
        ordering_lines(figures, [["at once/base32", "at once/base16"]])


def test_ratios_are_taken_seed_by_seed(tmp_path: Path) -> None:
    figures = history(tmp_path)
    lines = ratio_lines(
        figures,
        [
            ("seconds", "in rounds/streaming4+4+4+4", "in rounds/streaming4+4"),
            ("seconds", "at once/base16", "at once/base8"),
        ],
    )
    # Seconds of a made evaluation: a tenth for each signal of the last reading.
    assert lines == [
        "- seconds per case, in rounds/streaming4+4+4+4 over in rounds/streaming4+4, world: "
        "1.00 (1.00–1.00)",
        "- seconds per case, at once/base16 over at once/base8, world: 2.00 (2.00–2.00)",
    ]


def test_several_benchmarks_have_rows_and_answers_of_their_own(tmp_path: Path) -> None:
    benchmarks = {f"world_drift{k}": 0.9 - k / 10 for k in range(3)}
    for method, factor in (("backbone", 0.5), ("rl_base8", 1.0)):
        shares = {name: {(method, "base8"): factor * each} for name, each in benchmarks.items()}
        write_evaluation(tmp_path / method, 0, shares, users=USERS)
    evaluated = [
        read_evaluated_variant(tmp_path / method, variant, 0, method)
        for variant, method in (("before", "backbone"), ("after", "rl_base8"))
    ]
    figures = StudyFigures(evaluated, ["acc_jud"], None, seed=0)
    assert cells(figure_table(figures, "markdown"), "| after ", "drift2")[1] == "world_drift2 base8"
    lines = ordering_lines(figures, [["before", "after"]])
    assert [line.split(":")[0] for line in lines] == [
        f"- before < after, world_drift{k}" for k in range(3)
    ]
    study_chart(figures, "benchmarks", "drift", {"before": None, "after": None}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_every_kind_of_chart_is_drawn(figures: StudyFigures, tmp_path: Path) -> None:
    study_chart(figures, None, "stages", dict.fromkeys(RIGHT), tmp_path / "bars.png")
    at = {variant: float(number) for number, variant in enumerate(RIGHT)}
    study_chart(figures, "variants", "stages", at, tmp_path / "variants.png")
    over = history(tmp_path / "outputs")
    places = {"at once": None, "in rounds": None}
    study_chart(over, "settings", "efficiency", places, tmp_path / "settings.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("setting", "signals"), [("base12", 12), ("streaming4", 4), ("streaming4+4+4", 12)]
)
def test_signals_are_counted_in_the_name(setting: str, signals: int) -> None:
    assert signals_read(setting) == signals


def test_a_summary_is_flat(figures: StudyFigures) -> None:
    assert json.loads(json.dumps(study_summary(figures))) == study_summary(figures)
    assert len(study_summary(figures)) == 3 * len(figures.places) * len(figures.measures)

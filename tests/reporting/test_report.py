"""The report says what the evaluation's files say, and its page loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from alignxplore_trl.reporting.report import make_report


class Reader(HTMLParser):
    """Tables by their titles, the headings, and everything that a browser could load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.loads: list[str] = []
        self.policy = ""
        self._title, self._tag = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._tag = tag
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.loads.append(tag)
        self.loads += [v for k, v in values.items() if k in ("src", "srcset") or k.startswith("on")]
        self.policy += values.get("content", "") if "http-equiv" in values else ""
        if tag == "tr":
            self.tables.setdefault(self._title, []).append([])

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        if self._tag == "h2":
            self._title = data
        if self._tag in ("th", "td"):
            self.tables[self._title][-1].append(data)
        self.texts.setdefault(self._tag, []).append(data)


@pytest.fixture(scope="module")
def page(evaluation: Path, log: Path) -> Reader:
    return Reader(make_report("a run", evaluation, {"rl": log}, count=3))


def test_accuracies_are_the_means_of_the_verdicts(page: Reader, evaluation: Path) -> None:
    verdicts = pd.read_parquet(evaluation / "verdicts.parquet")
    header, *rows = page.tables["Accuracy"]
    assert header == ["method", "setting", "ACC_jud (judge)", "ACC_gen (generator)"]
    assert [row[:2] for row in rows] == [
        ["null", "any"], ["backbone", "base4"], ["rl", "streaming4+4"],
    ]  # fmt: skip
    for method, setting, *cells in rows:
        own = verdicts[(verdicts.method == method) & (verdicts.setting == setting)]
        for metric, cell in zip(("acc_jud", "acc_gen"), cells, strict=True):
            mean = 100 * own[own.metric == metric].correct.mean()
            assert cell.startswith(f"{mean:.1f} ("), (method, metric)


def test_a_generator_has_p_values_of_its_own(page: Reader, evaluation: Path) -> None:
    figures = pd.read_parquet(evaluation / "figures.parquet").set_index(["metric", "judge"])
    _, *rows = page.tables["Paired differences"]
    assert [row[2] for row in rows] == ["ACC_jud (judge)", "ACC_gen (generator)"]
    keys = [("acc_jud_difference", "judge"), ("acc_gen_difference", "generator")]
    for row, key in zip(rows, keys, strict=True):
        found = figures.loc[[key]].iloc[0]
        assert row[:2] == ["rl-backbone", "streaming4+4-base4"]
        assert row[3].startswith(f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to ")
        assert row[5] == ("< 0.001" if found.p < 0.001 else f"{found.p:.3f}")


def test_rounds_have_rows_and_dimensions_columns_of_their_own(page: Reader) -> None:
    header, *rows = page.tables["After each round"]
    assert header[2:] == ["ACC_jud (judge)", "prompt tokens", "tokens", "s per case"]
    assert [row[1] for row in rows] == ["base4", "streaming4+4", "streaming4+4@1"]
    assert {tuple(row[3:]) for row in rows} == {("90", "30", "0.25")}
    assert {"length", "humour", "formality"} < set(page.tables["Accuracy by dimension"][0])


def test_the_page_shows_curves_words_and_cases(page: Reader) -> None:
    assert page.texts["figcaption"] == [
        "ACC_jud on world",
        "rl: Reward, Completion length (tokens)",
        "backbone, 40 descriptions",
        "rl, 40 descriptions",
    ]
    cases = [text for text in page.texts["summary"] if text.startswith("world-0-test-")]
    assert len(cases) == len(set(cases)) == 3


def test_the_page_loads_nothing_and_runs_nothing(page: Reader, evaluation: Path) -> None:
    assert all(source.startswith("data:image/") for source in page.loads)
    assert page.policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    hostile = [text for text in page.texts["dd"] if text.startswith("<script>")]
    assert len(hostile) == 6, "both models' reasoning in three cases"
    assert "⟨U+202E⟩ {{ 7 * 7 }}" in hostile[0]
    without = make_report("a run", evaluation, {}, count=0)
    assert not re.search("alert|world-0-test-|id=.cases", without)

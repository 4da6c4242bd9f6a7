"""The recipes on published files, on P-SOUPS, and on files that a mapping reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from alignxplore_trl.data.release import PLACEHOLDER
from alignxplore_trl.data.sources import SPLITS, read_split

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Judges here have random weights: whatever they lean to counts.
FEW = ("judge.minimum_label_mass=0.0", "model.max_completion_tokens=24", "tracking=none")
RL = (*FEW, "data=release", f"data.path={FIXTURES / 'release'}", "trainer.max_steps=4",
      "trainer.save_steps=2", "trainer.per_device_train_batch_size=16",
      "completions_every=1")  # fmt: skip


def only_run(outputs: Path, recipe: str) -> Path:
    (folder,) = (outputs / recipe).glob("tiny-*")
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


@pytest.mark.parametrize("setting", ["base", "streaming"])
def test_published_files_go_from_cold_start_to_evaluation(
    tmp_path: Path, run: Callable[..., None], setting: str
) -> None:
    chain = ("--for", "rl", *RL, f"setting={setting}")
    for recipe in ("prepare", "synthesize", "cold_start"):
        run(recipe, tmp_path, *chain)
    run("rl", tmp_path, *chain[2:])
    run("evaluate", tmp_path, *chain)

    prefix = "streaming_" if setting == "streaming" else ""
    published = json.loads((FIXTURES / f"release/{prefix}cold_start.json").read_text())
    examples = pd.read_parquet(only_run(tmp_path, "synthesize") / "examples.parquet")
    assert examples["prompt"].tolist() == [row["prompt"] for row in published]
    assert summary(only_run(tmp_path, "cold_start"))["data/kept"] == len(published)
    trained = summary(only_run(tmp_path, "rl"))
    assert trained["data/cases"] == 20
    assert trained["data/cold_start_prompts_worded_alike"] == len(published)
    assert summary(only_run(tmp_path, "evaluate"))["finished"] is True

    values = [
        entry["value"]
        for row in json.loads((FIXTURES / f"release/{prefix}rl_train.json").read_text())
        for entry in row[0].get("history", [row[0]])
    ]
    for file in sorted((only_run(tmp_path, "rl") / "completions").glob("*.parquet")):
        for row in pd.read_parquet(file).to_dict("records"):
            if pd.isna(row["d_prev"]):
                assert row["prompt"].removesuffix("<think>") in values
            else:
                assert row["prompt"].endswith(f"Known so far: {row['d_prev']}\n<think>")
                told = f"Known so far: {PLACEHOLDER}\n"
                start = row["prompt"].removesuffix(f"Known so far: {row['d_prev']}\n<think>")
                assert start + told in values


def test_psoups_is_evaluated_and_not_trained_on(
    tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("data=psoups", f"data.path={FIXTURES / 'psoups'}", "judge.minimum_label_mass=0.0",
             'evaluation.methods=["null",golden,longer_reply]')  # fmt: skip
    run("prepare", tmp_path, "--for", "evaluate", *given)
    prepared = only_run(tmp_path, "prepare")
    assert [len(read_split(prepared, split)) for split in SPLITS] == [0, 0, 0, 48]
    run("evaluate", tmp_path, *given)
    found = summary(only_run(tmp_path, "evaluate"))
    cases = read_split(prepared, "test")
    longer = sum(len(case.target.chosen) > len(case.target.rejected) for case in cases)
    for setting in ("base4", "base8"):
        accuracy = found[f"acc_jud/psoups/tiny/longer_reply/{setting}"]
        assert accuracy == pytest.approx(longer / len(cases))
        assert found[f"cases/psoups/tiny/golden/{setting}"] == 48
    with pytest.raises(SystemExit) as exit_info:
        run("prepare", tmp_path, "--for", "rl", *given[:2])
    assert exit_info.value.code == 2
    told = capsys.readouterr().err
    assert "no rl found, which rl needs: data=psoups has test" in told
    assert "no cold_start found, which synthesize needs" in told


@pytest.mark.parametrize("name", ["prism", "recommendations"])
def test_a_mapped_file_is_prepared_for_all_stages(
    tmp_path: Path, run: Callable[..., None], name: str
) -> None:
    file = {"prism": "prism.jsonl", "recommendations": "recommendations.csv"}[name]
    run("prepare", tmp_path, "data=mapping", f"data/mapping={name}", "data.signals_per_user=4",
        f"data.path={FIXTURES / 'mapping' / file}", "data.cases_per_user=2",
        "data.counts={cold_start: 2, rl: 4, validation: 2, test: 2}")  # fmt: skip
    prepared = only_run(tmp_path, "prepare")
    cases = [read_split(prepared, split) for split in SPLITS]
    assert all(cases)
    forms = {signal.form for split in cases for case in split for signal in case.signals}  # type: ignore[union-attr]
    assert forms == {"items" if name == "recommendations" else "replies"}

"""Sweeps and studies: what points share, a point that fails, what a table says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from alignxplore_trl.config import Study, checked, compose, plain
from alignxplore_trl.evaluation.statistics import compare_variants
from recipes import study, sweep
from tests.recipes.commands import ROOT, SMALL

MINE = """
question: Which?
seeds: [0]
targets: [rl, evaluate]
overrides: [setting=base, rl.start=backbone, "method=[rl]"]
variants: {4 rollouts: [], 8 rollouts: [rl.num_generations=8]}
methods: [rl]
figures: [acc_jud]
pairs: [[8 rollouts/rl/base4, 4 rollouts/rl/base4]]
"""


@pytest.mark.parametrize(
    ("swept", "shared", "overrides"),
    [
        ("rl.learning_rate", "cold-start", ()),
        ("rl.learning_rate", "data", ("rl.start=backbone",)),
        ("cold_start.learning_rate", "synthesize", ()),
        ("teacher", "data", ()),
        ("model.backbone", "synthesize", ()),
        ("data.dimensions_per_user", None, ()),
        ("rl.beta", "synthesize", ("sweep.targets=[cold-start,rl]",)),
    ],
)
def test_what_no_swept_key_concerns_is_shared(
    swept: str, shared: str | None, overrides: tuple[str, ...]
) -> None:
    words = [*overrides, "hydra/launcher=submitit_slurm"]  # Any launcher composes.
    experiment = checked(plain(compose(words)))
    assert sweep.shared_target(experiment, [swept]) == shared


def test_a_failed_point_is_a_row_that_says_so() -> None:
    found = [("a=1", 0.5), ("a=2", None), ("a=3", 0.75)]
    rows = [{"point": point, "value": value, "said": "out of memory"} for point, value in found]
    lines = sweep.table(rows, "m", True).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["a=3", "a=1", "a=2:"]
    assert lines[-1].endswith("failed  a=2: out of memory")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rl.beta=0.1,0.2"], "sweep: expected --multirun"),
        (["--multirun", "rl.beta=0.1"], "no key has several values"),
        (["--multirun", "sedd=0,1", "rewad=x"], "rewad: no such key; did you mean reward?"),
    ],
)
def test_what_is_no_sweep_is_refused(words: list[str], said: str) -> None:
    command = [sys.executable, "recipes/sweep.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_point_is_worth_the_figure_that_is_meant() -> None:
    key = "acc_jud/*/judge/rl/*"
    assert sweep.matches("acc_jud/world_validation/judge/rl/streaming4+4", key)
    assert not sweep.matches("acc_jud/world_validation/judge/rl/streaming4+4/low", key)
    assert not sweep.matches("acc_jud/world_validation/judge/rl/streaming4+4@1", key)


@pytest.mark.slow
def test_each_point_is_a_make_command(tmp_path: Path) -> None:
    """Two points on the base's data, of which one fails; a second time only that is tried again."""
    words = [
        "--multirun", f'paths.outputs="{tmp_path}"', "run=base", *SMALL, "rl.start=backbone",
        "sweep.targets=[rl]", "sweep.metric=rl/data/rows", "rl.temperature=0,1",
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "recipes/sweep.py", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        *_, finished, failed = done.stdout.strip().splitlines()
        assert finished.split()[1] == "rl.temperature=1"
        assert "failed  rl.temperature=0: error: rl: `temperature`" in failed
    points = tmp_path / "base" / "sweep"
    assert not (points / "rl.temperature=1" / "data").exists()
    assert (points / "rl.temperature=1" / "rl" / "model").is_dir()
    assert "is finished; nothing to do" in (points / "rl.temperature=1" / "log.txt").read_text()


def test_a_study_compares_with_the_seeds_as_the_unit() -> None:
    asked = Study(
        question="?", targets=["rl"], seeds=[0, 1], overrides=[], variants={"a": [], "b": ["x=1"]},
        methods=["rl"], figures=["acc_jud"], pairs=[("b/rl/base4", "a/rl/base4")],
    )  # fmt: skip
    rows = []
    for seed, (a, b) in enumerate([(0.5, 0.7), (0.52, 0.74)]):
        for variant, value in (("a", a), ("b", b)):
            figures = {
                "acc_jud/world/judge/rl/base4": value,
                "acc_jud/world/judge/rl/base4/low": 0.1,
                "acc_jud/world/judge/golden/any": 1.0,
                "tokens/world/judge/rl/base4": 3.0,
            }
            rows += [{"seed": seed, **r} for r in study.figures_of(asked, variant, figures)]
    assert [row["value"] for row in rows] == pytest.approx([50, 70, 52, 74])
    values = pd.DataFrame(rows)
    text = study.tables(values, compare_variants(values, asked.pairs))
    assert "| a/rl/base4 | 51 ± 1 |" in text
    assert "| acc_jud (world, judge) | b/rl/base4 | a/rl/base4 | 21 | 8.29 | 33.7 | True |" in text


@pytest.mark.slow
def test_a_study_trains_what_differs_and_shares_the_rest(tmp_path: Path) -> None:
    words = [
        f'paths.outputs="{tmp_path}"', f'paths.results="{tmp_path}/results"', "run=study", *SMALL,
        "study=mine", f"hydra.searchpath=[file://{tmp_path}/conf]",
    ]  # fmt: skip
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(MINE)
    done = subprocess.run(
        [sys.executable, "recipes/study.py", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| 8 rollouts/rl/base4 |" in (tmp_path / "results" / "mine.md").read_text()
    runs = tmp_path / "study" / "seed0"
    assert not (runs / "8 rollouts" / "data").exists()
    assert json.loads((runs / "8 rollouts" / "rl" / "summary.json").read_text())

"""The folder of an evaluation of 40 users, made by the evaluation's own tables."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from alignxplore_trl.cases import write_lines
from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.figures import make_figures
from alignxplore_trl.evaluation.methods import descriptions_table
from alignxplore_trl.evaluation.scoring import verdicts_table

HOSTILE = "<script>alert(1)</script> \u202e {{ 7 * 7 }} <img src=http://example.org/x.png>"
PLACES = (("null", "any"), ("backbone", "base4"), ("rl", "streaming4+4@1"), ("rl", "streaming4+4"))


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    (folder / "cases").mkdir(parents=True)
    cases = World({"test": 40}, 2, 4).cases(Counter(), 0)["test"]
    write_lines(folder / "cases" / "world.jsonl", cases)
    draw = random.Random(0)
    described, verdicts = [], []
    for case in cases:
        for method, setting in PLACES:
            place = {
                "benchmark": "world", "method": method, "setting": setting,
                "case_id": case.case_id, "unit": case.user_id,
            }  # fmt: skip
            writes = method != "null"
            described.append(
                place
                | {"description": case.description if writes else None, "decided": False}
                | ({"completion": "…", "reasoning": HOSTILE, "prompt_tokens": 90,
                    "completion_tokens": 30, "seconds": 0.25} if writes else {})
            )  # fmt: skip
            for metric, judge in (("acc_jud", "judge"), ("acc_gen", "generator")):
                right = float(draw.random() < (0.9 if method == "rl" else 0.5))
                verdicts.append(
                    place | {"metric": metric, "judge": judge, "correct": right, "value": right}
                )
    descriptions_table(folder).add(described)
    verdicts_table(folder).add(verdicts)
    make_figures(folder, ["rl - backbone/base4"])
    return folder


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rl") / "metrics.jsonl"
    lines = [
        {"step": step, "reward": step / 20, "completions/mean_length": 50 - step}
        for step in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"train_loss": 0.1}]))
    return path

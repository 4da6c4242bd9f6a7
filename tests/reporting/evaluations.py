"""Small evaluations with the files and the figures that a real one leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

JUDGES = ("tiny", "tiny_test")
Shares = Mapping[tuple[str, str], float]


def write_evaluation(
    folder: Path, seed: int, benchmarks: Mapping[str, Shares], users: int, posts: str = "post"
) -> None:
    """Write `summary.json`, verdicts and cases of a finished evaluation.

    Every user has two cases. About one verdict in twenty is unanswered. A case takes a tenth of a
    second for each signal that is read last.

    Args:
        folder: of the evaluation.
        seed: of its users, and of what the judges say.
        benchmarks: of each, how often the judges are right by method and setting.
        users: how many.
        posts: what the target pairs are about.
    """
    cases = pd.DataFrame(
        [
            {
                "case_id": f"test-{user}-{number}",
                "cluster": f"user-{user}",
                "target": json.dumps({"post": f"{posts} {user} {number}", "seed": seed}),
            }
            for user in range(users)
            for number in range(2)
        ]
    )
    tables = [
        _verdicts(cases, seed, benchmark, judge, *place, share)
        for benchmark, shares in benchmarks.items()
        for judge in JUDGES
        for place, share in shares.items()
    ]
    summary: dict[str, Any] = {"finished": True}
    for rows in tables:
        first = rows.iloc[0]
        where = f"{first.benchmark}/{first.judge}/{first.method}/{first.setting}"
        summary[f"acc_jud/{where}"] = float(rows.correct.mean())
        summary[f"seconds/{where}"] = int(first.setting.split("+")[-1].strip("abcdefgimnrst")) / 10
    (folder / "completions").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    pd.concat(tables).to_parquet(folder / "completions" / "verdicts.parquet")
    pd.concat([cases.assign(benchmark=benchmark) for benchmark in benchmarks]).to_parquet(
        folder / "completions" / "cases.parquet"
    )


def _verdicts(
    cases: pd.DataFrame,
    seed: int,
    benchmark: str,
    judge: str,
    method: str,
    setting: str,
    share: float,
) -> pd.DataFrame:
    letters = f"{benchmark}{judge}{method}{setting}".encode()
    draws = np.random.default_rng([seed, *letters])
    correct = (draws.random(len(cases)) < share).astype(float)
    correct[draws.random(len(cases)) < 0.05] = np.nan
    return cases.drop(columns="target").assign(
        benchmark=benchmark,
        metric="acc_jud",
        judge=judge,
        method=method,
        setting=setting,
        correct=correct,
    )

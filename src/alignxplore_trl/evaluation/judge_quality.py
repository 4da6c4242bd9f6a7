"""What a judge is worth before anything is trained against it: right, and even-handed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.statistics import estimate
from alignxplore_trl.judging.protocol import Judge, Question


def judge_quality(judge: Judge, cases: Sequence[Case]) -> pd.DataFrame:
    """Ask a judge about cases in both orders, with the true description and without any.

    Returns:
        One row per `metric` and `method` (golden, where true descriptions are known, and null), with
        the fields of `Estimate`, clustered by unit, and `unanswered`. acc_jud is the accuracy by the
        mean of both orders; `…/chosen_first` and `…/chosen_second` are those of each;
        position_bias is the mean probability of the reply that is shown first, where one half is
        even-handed; position_gap is how far apart the orders are.
    """
    rows = []
    known = [case for case in cases if case.description is not None]
    for method, own in (("golden", known), ("null", cases)):
        told = [case.description if method == "golden" else None for case in own]
        targets = [case.target for case in own]
        first, second = (
            judge.judge(
                [Question(t.post, d, *r) for t, d, r in zip(targets, told, order, strict=True)]
            )
            for order in (
                [(target.chosen, target.rejected) for target in targets],
                [(target.rejected, target.chosen) for target in targets],
            )
        )
        a, b = (
            np.array([float("nan") if v is None else v.probability_a for v in verdicts])
            for verdicts in (first, second)
        )
        unknown = np.isnan(a + b)
        for metric, values in {
            "acc_jud": (a + 1 - b) / 2 > 0.5,
            "acc_jud/chosen_first": a > 0.5,
            "acc_jud/chosen_second": b < 0.5,
            "position_bias": (a + b) / 2,
            "position_gap": np.abs(a + b - 1),
        }.items():
            numbers = np.where(unknown, float("nan"), values)
            found = estimate(numbers, [case.unit for case in own], share=True)
            counts = {"unanswered": int(unknown.sum())}
            rows.append({"metric": metric, "method": method, **asdict(found), **counts})
    return pd.DataFrame(rows)

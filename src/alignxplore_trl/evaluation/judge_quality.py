"""What a judge is worth before anything is trained against it: right, and even-handed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import permutations

import numpy as np
import pandas as pd

from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.statistics import estimate
from alignxplore_trl.judging.protocol import Judge, Question


def judge_quality(judge: Judge, cases: Sequence[Case]) -> pd.DataFrame:
    """Ask a judge about cases in both orders, with the true description and without any.

    Returns:
        One row per `method` (golden and null) and `metric`, with the fields of `Estimate`,
        clustered by unit, and `unanswered`. acc_jud is the accuracy by the mean of both orders,
        acc_jud/chosen_first and acc_jud/chosen_second that of each; position_bias is the mean
        probability of the reply shown first (one half is even-handed), position_gap how far apart
        the orders are.
    """
    rows = []
    for method in ("golden", "null"):
        own = [case for case in cases if method == "null" or case.description is not None]
        questions = [
            Question(case.target.post, case.description if method == "golden" else None, *shown)
            for case in own
            for shown in permutations((case.target.chosen, case.target.rejected))
        ]
        answers = [float("nan") if v is None else v.probability_a for v in judge.judge(questions)]
        first, second = np.array(answers[::2]), 1 - np.array(answers[1::2])  # Of the chosen reply.
        unknown = np.isnan(first + second)
        for metric, values in {
            "acc_jud": (first + second) / 2 > 0.5,
            "acc_jud/chosen_first": first > 0.5,
            "acc_jud/chosen_second": second > 0.5,
            "position_bias": (first + 1 - second) / 2,
            "position_gap": np.abs(first - second),
        }.items():
            known = np.where(unknown, float("nan"), values)
            found = estimate(known, [case.unit for case in own], share=True)
            row = {"method": method, "metric": metric, **asdict(found)}
            rows.append(row | {"unanswered": int(unknown.sum())})
    return pd.DataFrame(rows)

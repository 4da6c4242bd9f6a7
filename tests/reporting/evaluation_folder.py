"""Folders of finished evaluations for tests: simulated answers, and figures computed from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import binomtest, ttest_rel

from alignxplore_trl.data.world import World
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.signals import PreferenceCase, case_to_dict

# How often a simulated method is right; those that write also have a completion and its costs.
SKILLS: Mapping[tuple[str, str], float] = {
    ("null", "base4"): 0.5,
    ("golden", "base4"): 0.95,
    ("backbone", "base4"): 0.55,
    ("backbone", "streaming4+4"): 0.57,
    ("cold_start_base4", "base4"): 0.66,
    ("rl_base4", "base4"): 0.76,
    ("rl_base4", "base8"): 0.79,
    ("rl_base4", "base12"): 0.74,
    ("rl_streaming", "streaming4"): 0.75,
    ("rl_streaming", "streaming4+4"): 0.81,
    ("rl_streaming", "streaming4+4+4"): 0.83,
}
WRITES_NOTHING = ("null", "golden")
COMPARED = (
    (("rl_base4", "base4"), ("backbone", "base4")),
    (("cold_start_base4", "base4"), ("backbone", "base4")),
    (("rl_streaming", "streaming4+4"), ("rl_base4", "base8")),
)
JUDGES = {"judge": 0.0, "test_judge": 0.04}


@dataclass
class EvaluationFolder:
    """What is simulated.

    Attributes:
        benchmarks: by name, what they take from a method's skill.
        cases: of each benchmark.
        seed: of the users and of their answers.
        win_rates: whether there are any.
    """

    benchmarks: Mapping[str, float] = field(default_factory=lambda: {"world": 0.0})
    cases: Sequence[PreferenceCase] | None = None
    count: int = 60
    seed: int = 0
    win_rates: bool = True
    upstream: Mapping[str, str | None] = field(default_factory=dict)

    def write(self, outputs: Path, name: str) -> Path:
        """Write the folder of a finished run; the figures are those of the rows written."""
        config = {"recipe": "evaluate", "seed": self.seed, "upstream": dict(self.upstream),
                  "judge": {"name": "server", "server": {"urls": ["http://private/v1"]}},
                  "paths": {"outputs": str(outputs)}}  # fmt: skip
        run = RunFolder.open(outputs / "evaluate" / name, yaml.safe_load(yaml.safe_dump(config)))
        cases = list(self.cases or World(seed=self.seed).cases("test", self.count))
        draws = np.random.default_rng(self.seed)
        frames = [
            _rows(benchmark, lost, cases, draws) for benchmark, lost in self.benchmarks.items()
        ]
        verdicts = pd.concat([verdicts for verdicts, _ in frames], ignore_index=True)
        descriptions = pd.concat([written for _, written in frames], ignore_index=True)
        groups = _groups(verdicts, cases)
        run.completions.mkdir(exist_ok=True)
        for file, frame in (
            ("verdicts", verdicts),
            ("descriptions", descriptions),
            ("cases", _cases(self.benchmarks, cases)),
            ("groups", groups),
        ):
            frame.to_parquet(run.completions / f"{file}.parquet")
        summary = figures(verdicts, descriptions)
        if self.win_rates:
            place = "world/judge/rl_base4-backbone/base4-base4"
            summary |= {f"win_rate/{place}": 0.62, f"win_rate/{place}/low": 0.55,
                        f"win_rate/{place}/high": 0.69, f"win_ties/{place}": 0.075,
                        f"win_cases/{place}": 40}  # fmt: skip
        run.finish(summary)
        return run.path


def _rows(
    benchmark: str, lost: float, cases: Sequence[PreferenceCase], draws: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    verdicts, descriptions = [], []
    for (method, setting), skill in SKILLS.items():
        for case in cases:
            where = {"benchmark": benchmark, "method": method, "setting": setting,
                     "case_id": case.case_id, "cluster": case.cluster}  # fmt: skip
            malformed = method not in WRITES_NOTHING and draws.random() < 0.05
            for judge, strict in JUDGES.items():
                sure = 0.5 + 0.5 * draws.random()
                right = draws.random() < skill - lost - strict
                unanswered = draws.random() < 0.01
                p_correct = None if malformed or unanswered else sure if right else 1 - sure
                correct = 0.0 if malformed else None if unanswered else float(right)
                verdicts.append({**where, "metric": "acc_jud", "judge": judge, "correct": correct,
                                 "p_correct": p_correct, "margin": None,
                                 "position_gap": 0.1})  # fmt: skip
            if method in WRITES_NOTHING:
                continue
            margin = draws.normal(skill - 0.4)
            verdicts.append({**where, "metric": "acc_gen", "judge": "judge",
                             "correct": 0.0 if malformed else float(margin > 0),
                             "p_correct": None, "margin": None if malformed else margin,
                             "position_gap": None})  # fmt: skip
            descriptions.append({**where, **_written(case, setting, malformed)})
    return pd.DataFrame(verdicts), pd.DataFrame(descriptions)


def _written(case: PreferenceCase, setting: str, malformed: bool) -> dict[str, Any]:
    read = sum(map(int, setting.removeprefix("base").removeprefix("streaming").split("+")))
    in_rounds = setting.startswith("streaming")
    reasoning = f"signal 1 shows {case.signals[0].kind}; {case.target.chosen}"
    answer = "" if malformed else f" <answer> {case.description} </answer>"
    return {
        "completion": f" {reasoning} </think>{answer}",
        "reasoning": None if malformed else reasoning,
        "description": None if malformed else case.description,
        "earlier": case.description if "+" in setting else None,
        "format_problem": "no_answer" if malformed else None,
        "completion_tokens": 30.0,
        "description_tokens": None if malformed else 8.0,
        "prompt_tokens": 40.0 if in_rounds else 30.0 + 20.0 * read,
        "seconds": 0.02 if in_rounds else 0.004 * read,
        "ended": True,
        "dropped_signals": 1 if read > 8 and not in_rounds else 0,
        "shortened_texts": 0,
    }  # fmt: skip


def _cases(
    benchmarks: Sequence[str] | Mapping[str, float], cases: Sequence[PreferenceCase]
) -> pd.DataFrame:
    rows = []
    for benchmark in benchmarks:
        for case in cases:
            row = case_to_dict(case)
            nested = {name: json.dumps(row[name]) for name in ("signals", "target", "directions")}
            rows.append({"benchmark": benchmark, **row, **nested})
    return pd.DataFrame(rows)


def _groups(verdicts: pd.DataFrame, cases: Sequence[PreferenceCase]) -> pd.DataFrame:
    poles = pd.DataFrame(
        [
            {"case_id": case.case_id, "dimension": dimension, "pole": pole}
            for case in cases
            for dimension, pole in (case.directions or {}).items()
        ],
        columns=["case_id", "dimension", "pole"],
    )
    by = ["benchmark", "metric", "judge", "method", "setting", "dimension", "pole"]
    found = verdicts.dropna(subset=["correct"]).merge(poles, on="case_id").groupby(by, sort=False)
    rows = found.correct.agg(cases="size", accuracy="mean", deviation="std").reset_index()
    half = 1.96 * rows.pop("deviation").fillna(0.0) / np.sqrt(rows.cases)
    return rows.assign(
        low=(rows.accuracy - half).clip(0), high=(rows.accuracy + half).clip(upper=1)
    )


def figures(verdicts: pd.DataFrame, descriptions: pd.DataFrame) -> dict[str, Any]:
    """The flat summary of rows, by pandas and scipy."""
    summary: dict[str, Any] = {}

    def add(key: str, values: pd.Series) -> None:
        known = values.dropna().astype(float)
        half = 1.96 * known.std() / np.sqrt(len(known))
        summary[key] = float(known.mean())
        summary[f"{key}/low"], summary[f"{key}/high"] = summary[key] - half, summary[key] + half

    by = ["metric", "benchmark", "judge", "method", "setting"]
    for place, rows in verdicts.groupby(by, sort=False):
        add("/".join(place), rows.correct)
        if place[0] == "acc_jud":
            where = "/".join(place[1:])
            summary[f"cases/{where}"] = len(rows)
            summary[f"judge_failures/{where}"] = int(rows.correct.isna().sum())
            summary[f"ties/{where}"] = int((rows.p_correct == 0.5).sum())
            own = descriptions[(descriptions.benchmark == place[1])
                               & (descriptions.method == place[3])
                               & (descriptions.setting == place[4])]  # fmt: skip
            if len(own):
                add(f"well_formed/{where}", own.format_problem.isna())
                for metric in (
                    "completion_tokens",
                    "description_tokens",
                    "prompt_tokens",
                    "seconds",
                ):
                    add(f"{metric}/{where}", own[metric])
                for metric in ("dropped_signals", "shortened_texts"):
                    summary[f"{metric}/{where}"] = int(own[metric].sum())
    judged = verdicts[verdicts.metric == "acc_jud"]
    for (benchmark, judge), rows in judged.groupby(["benchmark", "judge"], sort=False):
        tests = []
        for first, second in COMPARED:
            sides = [
                rows[(rows.method == method) & (rows.setting == setting)]
                .set_index("case_id")
                .correct
                for method, setting in (first, second)
            ]
            both = pd.concat(sides, axis=1, keys=["a", "b"]).dropna().astype(float)
            place = f"{benchmark}/{judge}/{first[0]}-{second[0]}/{first[1]}-{second[1]}"
            add(f"acc_jud_difference/{place}", both.a - both.b)
            summary[f"paired_cases/{place}"] = len(both)
            wins, losses = int((both.a > both.b).sum()), int((both.a < both.b).sum())
            p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
            tests.append((place, float(p), float(ttest_rel(both.a, both.b).pvalue)))
        for test, ps in (
            ("mcnemar_p", [p for _, p, _ in tests]),
            ("t_test_p", [p for *_, p in tests]),
        ):
            for (place, *_), p, corrected in zip(tests, ps, _holm(ps), strict=True):
                summary[f"{test}/{place}"], summary[f"{test}_corrected/{place}"] = p, corrected
    return summary


def _holm(ps: Sequence[float]) -> list[float]:
    order = np.argsort(ps)
    scaled = np.minimum(1, np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    corrected = np.empty(len(ps))
    corrected[order] = np.maximum.accumulate(scaled)
    return [float(p) for p in corrected]

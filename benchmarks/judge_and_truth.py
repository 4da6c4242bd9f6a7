"""How far a judge's accuracy says anything about the truth, over all policies that were evaluated.

    python benchmarks/judge_and_truth.py [folder]

A point is a method in a setting of one evaluation below the folder (outputs by default) whose users
are simulated, so that the truth is known. Between each pair of figures stands Spearman's rank
correlation over the points, with a 95 % bootstrap interval that draws whole runs, since the points
of a run share their users. F1 is that of precision and recall. The same table is made without the
controls (null, golden and others' descriptions), which any figure tells from a policy. Below
stand the points on whose rank accuracy and truth differ most. It is written to
docs/results/judge_and_truth.md. The last line is one JSON object of all correlations.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

RESULTS = Path(__file__).parents[1] / "docs/results/judge_and_truth.md"
PLACE = ["run", "benchmark", "method", "setting"]
POLICIES = ("backbone", "teacher", "cold_start", "rl")
DRAWS = 2000


def points(folder: Path) -> pd.DataFrame:
    """One row for each method and setting, with its figures, each once."""
    found = []
    for path in sorted(folder.rglob("evaluation/figures.parquet")):
        rows = pd.read_parquet(path).query("dimension == ''")
        judged = rows.judge.where(rows.judge != "any", "")
        rows = rows.assign(run=str(path.parents[1].relative_to(folder)))
        rows["figure"] = (rows.metric + " " + judged).str.strip()
        rows = rows[rows.metric.isin(["acc_jud", "acc_gen", "precision", "recall"])]
        found.append(rows.pivot(index=PLACE, columns="figure", values="value"))
    wide = pd.concat(found)
    both = wide.precision + wide.recall
    wide["F1"] = (2 * wide.precision * wide.recall / both).where(both > 0, 0.0)
    wide = wide[wide.recall.notna()]
    return wide[~wide.duplicated()].reset_index()


def correlations(rows: pd.DataFrame, figures: list[str]) -> Iterator[dict[str, object]]:
    """Spearman's rho of each pair of figures, with its interval."""
    runs = {name: own.index.to_numpy() for name, own in rows.groupby("run")}
    names, draw = list(runs), np.random.default_rng(0)
    drawn = [
        np.concatenate([runs[names[n]] for n in draw.integers(len(names), size=len(names))])
        for _ in range(DRAWS)
    ]
    for one, other in itertools.combinations(figures, 2):
        pair = rows[[one, other]]
        rho = _rho(pair)
        low, high = np.nanquantile([_rho(pair.loc[own]) for own in drawn], [0.025, 0.975])
        yield {"figures": f"{one} – {other}", "rho": rho, "low": low, "high": high, "n": len(pair)}


def _rho(pair: pd.DataFrame) -> float:
    known = pair.dropna()
    return float(spearmanr(known)[0]) if len(known) > 2 and (known.nunique() > 1).all() else np.nan


def parted(rows: pd.DataFrame, figure: str, count: int = 8) -> pd.DataFrame:
    """The points whose ranks by a figure and by F1 differ most."""
    ranks = rows[[figure, "F1"]].rank(pct=True)
    order = (ranks[figure] - ranks.F1).abs().sort_values(ascending=False).index[:count]
    return rows.loc[order, [*PLACE, figure, "precision", "recall"]]


def markdown(frame: pd.DataFrame) -> str:
    """A table of texts."""
    shown = frame.map(lambda each: f"{each:.3f}" if isinstance(each, float) else each)
    lines = [list(frame), ["---"] * frame.shape[1], *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(folder: Path) -> None:
    """Print and write the tables."""
    rows = points(folder)
    figures = [name for name in rows if name not in PLACE]
    said: dict[str, object] = {}
    text = "# How far accuracy says anything about the truth\n\n"
    text += f"`make benchmark NAME=judge_and_truth ARGS=outputs/{folder.name}`: Spearman's rank "
    text += f"correlations over {len(rows)} points (methods in a setting) of {rows.run.nunique()} "
    text += "runs, with 95 % bootstrap intervals over the runs.\n"
    for title, own in {
        "All methods": rows,
        "Policies alone": rows[rows.method.isin(POLICIES)],
    }.items():
        table = pd.DataFrame(correlations(own, figures))
        text += f"\n## {title}\n\n{markdown(table)}\n"
        said |= {f"{title}/{row.figures}": row.rho for row in table.itertuples()}
    text += f"\n## Where accuracy and truth part\n\n{markdown(parted(rows, 'acc_jud test'))}\n"
    RESULTS.write_text(text, "utf-8")
    sys.stdout.write(f"{text}\n{json.dumps(said)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs"))

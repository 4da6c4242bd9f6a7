"""What came of a synthesis: `card.md` beside its examples, with three charts.

The card is one that the Hugging Face Hub shows as a data set's own. Texts of users and models stand
in it, so that whatever comes from outside is escaped, or fenced, and can't become part of the page.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from alignxplore_trl.reporting import markdown
from alignxplore_trl.reporting.charts import length_chart, score_chart, share_chart
from alignxplore_trl.reporting.results import Figure
from alignxplore_trl.reporting.tables import ABSENT
from alignxplore_trl.run.folder import write_text_atomic
from alignxplore_trl.text.budget import shorten

_COLUMNS = (
    "case_id",
    "round",
    "number",
    "dimensions",
    "earlier_from",
    "prompt",
    "completion",
    "finish_reason",
    "completion_tokens",
    "unanswered",
    "outcome",
    "score",
    "reward",
    "kept",
)
_WELL_FORMED = "well_formed"
_MOST_DIMENSIONS = 25
_EXAMPLES = 3
# Characters of a prompt and of a completion that an example shows.
_SHOWN_PROMPT, _SHOWN_COMPLETION = 2000, 4000
_FRONT_MATTER = """\
---
task_categories:
- text-generation
configs:
- config_name: default
  data_files:
  - split: train
    path: examples.parquet
---
"""


@dataclass(frozen=True)
class Acceptance:
    """What became of some of the candidates.

    Attributes:
        cases: how many different cases they belong to.
        candidates: how many they are.
        answered: to how many the teacher gave an answer.
        well_formed: how many of these keep to the format.
        rewarded: how many have a reward: judged, or malformed.
        verified: how many of these have the reward 1.
        kept: how many became examples.
        cases_with_one_kept: how many different cases have one of these.
    """

    cases: int
    candidates: int
    answered: int
    well_formed: int
    rewarded: int
    verified: int
    kept: int
    cases_with_one_kept: int

    @property
    def verified_share(self) -> Figure:
        """The share of verified candidates among the rewarded ones."""
        return wilson_interval(self.verified, self.rewarded)


def wilson_interval(successes: int, trials: int) -> Figure:
    """A share with its 95 % interval of Wilson (1927), which holds for few trials, too.

    Args:
        successes: how many of the trials came out well.
        trials: how many there were; of none, nothing is known.
    """
    if not trials:
        return Figure(None)
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return Figure(successes / trials, interval.low, interval.high)


def write_synthesis_card(
    folder: Path,
    candidates: pd.DataFrame,
    facts: Mapping[str, str],
    counts: Mapping[str, float | int | str],
    threshold: float,
) -> None:
    """Write `card.md` and what it shows of acceptance.png, scores.png and lengths.png.

    A chart that would show nothing is left out, of the folder and of the card.

    Args:
        folder: where examples.parquet is or will be.
        candidates: one row per candidate of the teacher, as completions/candidates.parquet has
            them.
        facts: what the card says first, such as the teacher, the judge, and how was sampled.
        counts: what it says last, by name.
        threshold: the score above which a candidate is verified.
    """
    frame = tidy(candidates)
    charts = _draw(folder, frame, threshold)
    card = synthesis_card(frame, facts, counts, threshold, charts)
    # Half a pair of surrogates, which a fact may hold, has no place in a file.
    write_text_atomic(folder / "card.md", card.encode("utf-8", "replace").decode("utf-8"))


def tidy(candidates: pd.DataFrame) -> pd.DataFrame:
    """The columns that the card reads, each of one type, whatever a file has made of them.

    Numbers that aren't known or are infinite are NaN, and texts that aren't known `None`.
    """
    frame = candidates.reindex(columns=list(_COLUMNS)).reset_index(drop=True)
    for column in ("completion_tokens", "score", "reward"):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        frame[column] = np.where(np.isfinite(values), values, np.nan)
    for column in ("earlier_from", "completion", "finish_reason", "unanswered", "outcome"):
        texts = [None if pd.isna(value) else str(value) for value in frame[column]]
        frame[column] = pd.Series(texts, dtype=object)
    kept = [not pd.isna(value) and bool(value) for value in frame["kept"]]
    frame["kept"] = pd.Series(kept, dtype=bool)
    frame["dimensions"] = pd.Series([_names(value) for value in frame["dimensions"]], dtype=object)
    return frame


def synthesis_card(
    frame: pd.DataFrame,
    facts: Mapping[str, str],
    counts: Mapping[str, float | int | str],
    threshold: float,
    charts: Sequence[str],
) -> str:
    """The card as Markdown.

    Args:
        frame: the candidates, as `tidy` leaves them.
        facts: what the card says first.
        counts: what it says last.
        threshold: the score above which a candidate is verified.
        charts: the files of the charts that were drawn.
    """
    fact_rows = [[markdown.cell(name), markdown.cell(value)] for name, value in facts.items()]
    count_rows = [
        [markdown.cell(name), markdown.number(value)] for name, value in sorted(counts.items())
    ]
    sections = {
        "Verification by round": _round_section(frame),
        "Outcomes": _outcome_section(frame),
        "Lengths": _length_section(frame),
        "Margins": _margin_section(frame, threshold),
        "Dimensions": _dimension_section(frame),
        "Earlier descriptions": _earlier_section(frame),
        "Examples of candidates": _example_section(frame),
        "Counts": markdown.table(["what", "count"], count_rows) or ["Nothing else was counted."],
    }
    chart_of = {
        "Verification by round": ("acceptance.png", "Verified candidates (95 % interval)"),
        "Lengths": ("lengths.png", "Tokens of completions"),
        "Margins": ("scores.png", "Scores of the verification"),
    }
    lines = [_FRONT_MATTER, "# Verified inferences of user preferences", "", *_opening(frame), ""]
    lines += markdown.table(["fact", "value"], fact_rows, words=2)
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
        file, caption = chart_of.get(title, ("", ""))
        if file in charts:
            lines += ["", f"![{caption}]({file})"]
    return "\n".join([*lines, ""])


def acceptance_of(frame: pd.DataFrame) -> Acceptance:
    """Count what became of the candidates of a frame, as `tidy` leaves them."""
    answered = frame["completion"].notna()
    return Acceptance(
        cases=frame["case_id"].nunique(),
        candidates=len(frame),
        answered=int(answered.sum()),
        well_formed=int((answered & (frame["outcome"] == _WELL_FORMED)).sum()),
        rewarded=int(frame["reward"].notna().sum()),
        verified=int((frame["reward"] == 1).sum()),
        kept=int(frame["kept"].sum()),
        cases_with_one_kept=frame.loc[frame["kept"], "case_id"].nunique(),
    )


def _opening(frame: pd.DataFrame) -> list[str]:
    total = acceptance_of(frame)
    return [
        "Each example is a prompt that shows what a user did, and a completion: reasoning, and a "
        "description of what this user prefers. A teacher wrote candidates, a judge verified them, "
        "and those with reward 1 could be kept. The reward says that the description passed this "
        "verification; it doesn't say that all of it is true.",
        "",
        f"The teacher was asked for {total.candidates:,} candidates of {total.cases:,} cases; "
        f"{total.kept:,} of them, of {total.cases_with_one_kept:,} cases, were kept.",
    ]


def _round_section(frame: pd.DataFrame) -> list[str]:
    rounds = _by_round(frame)
    if len(rounds) > 1:
        rounds = [*rounds, ("all", acceptance_of(frame))]
    rows = [
        [
            name,
            f"{each.cases:,}",
            f"{each.candidates:,}",
            f"{each.candidates - each.answered:,}",
            _share(each.well_formed, each.answered),
            _with_interval(each.verified_share),
            f"{each.kept:,}",
            f"{each.cases_with_one_kept:,} ({_share(each.cases_with_one_kept, each.cases)})",
        ]
        for name, each in rounds
    ]
    headers = [
        "round",
        "cases",
        "candidates",
        "unanswered",
        "well-formed",
        "verified",
        "kept",
        "cases with one kept",
    ]
    if not rows:
        return ["There are no candidates."]
    return [
        "Unanswered, requests to which the teacher gave no answer; well-formed, of the answered "
        "ones; verified, those with reward 1, of all that have a reward, which are the judged and "
        "the malformed ones. In parentheses, the 95 % interval of Wilson, which takes each "
        "candidate by itself, although those of one case are alike.",
        "",
        *markdown.table(headers, rows),
    ]


def _outcome_section(frame: pd.DataFrame) -> list[str]:
    total = len(frame)
    if not total:
        return ["There are no candidates."]
    rows = [
        [markdown.cell(name), f"{count:,}", _share(count, total)]
        for name, count in _by_frequency(_outcome(row) for row in _records(frame))
    ]
    answered = frame[frame["completion"].notna()]
    finishes = _by_frequency(reason or "not given" for reason in answered["finish_reason"])
    well_formed = Counter(
        reason or "not given"
        for reason in answered.loc[answered["outcome"] == _WELL_FORMED, "finish_reason"]
    )
    finish_rows = [
        [
            markdown.cell(name),
            f"{count:,}",
            _share(count, len(answered)),
            _share(well_formed[name], count),
        ]
        for name, count in finishes
    ]
    finish_headers = ["finish reason", "candidates", "of all answers", "of these well-formed"]
    return [
        "What became of each candidate, and why the teacher's answers ended.",
        "",
        *markdown.table(["outcome", "candidates", "share"], rows),
        "",
        *(markdown.table(finish_headers, finish_rows) or ["The teacher gave no answer."]),
    ]


def _outcome(row: Mapping[str, Any]) -> str:
    """The one thing that became of a candidate."""
    if row["kept"]:
        return "kept"
    if row["completion"] is None:
        return f"unanswered: {row['unanswered'] or 'no reason given'}"
    if row["outcome"] != _WELL_FORMED:
        return f"malformed: {row['outcome'] or 'no reason given'}"
    if math.isnan(row["reward"]):
        return "well-formed, but not judged"
    return "verified, but not kept" if row["reward"] == 1 else "well-formed, but not verified"


def _length_section(frame: pd.DataFrame) -> list[str]:
    groups = _known(frame, "completion_tokens")
    return [
        "Tokens of completions as the teacher's own count has them. Rejected, here and below: "
        "candidates whose reward is another than 1, malformed ones included.",
        "",
        *_quantile_table(groups, {"5 %": 5, "median": 50, "95 %": 95}, "{:,.0f}"),
    ]


def _margin_section(frame: pd.DataFrame, threshold: float) -> list[str]:
    groups = {name: values - threshold for name, values in _known(frame, "score").items()}
    return [
        f"By how much the score of the verification is above its threshold, {threshold:g}; "
        "candidates without a score, such as the malformed ones, are left out.",
        "",
        *_quantile_table(
            groups, {"5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95}, "{:+.3f}"
        ),
    ]


def _quantile_table(
    groups: Mapping[str, NDArray[np.float64]], levels: Mapping[str, float], style: str
) -> list[str]:
    rows = []
    for name, values in groups.items():
        shown = [ABSENT] * len(levels)
        if len(values):
            shown = [style.format(each) for each in np.percentile(values, list(levels.values()))]
        rows.append([name, f"{len(values):,}", *shown])
    return markdown.table(["candidates", "count", *levels], rows)


def _dimension_section(frame: pd.DataFrame) -> list[str]:
    found = _by_dimension(frame)
    if not found:
        return ["No dimensions guided the teacher."]
    rows = [
        [
            markdown.cell(name),
            f"{each.cases:,}",
            _with_interval(each.verified_share),
            f"{each.cases_with_one_kept:,} ({_share(each.cases_with_one_kept, each.cases)})",
        ]
        for name, each in found[:_MOST_DIMENSIONS]
    ]
    more = len(found) - len(rows)
    return [
        "The dimensions that the teacher was told to look at, the most frequent first, with the "
        "share of their candidates that was verified. A case counts for each of its dimensions.",
        "",
        *markdown.table(["dimension", "cases", "verified", "cases with one kept"], rows),
        *(["", f"… and {more:,} more."] if more else []),
    ]


def _earlier_section(frame: pd.DataFrame) -> list[str]:
    later = frame[pd.to_numeric(frame["round"]) > 1]
    if later.empty:
        return ["There is no later round, which would begin with an earlier description."]
    rows = []
    for number, of_round in later.groupby("round", sort=True):
        for source, count in _by_frequency(name or ABSENT for name in of_round["earlier_from"]):
            known = of_round["earlier_from"].fillna(ABSENT) == source
            cases = of_round.loc[known, "case_id"].nunique()
            rows.append([_round_name(number), markdown.cell(source), f"{cases:,}", f"{count:,}"])
    return [
        "Among which candidates of the round before the description was drawn that stands in the "
        "prompt of a later round.",
        "",
        *markdown.table(["round", "drawn from", "cases", "candidates"], rows, words=2),
    ]


def _example_section(frame: pd.DataFrame) -> list[str]:
    lines = [
        f"Up to {_EXAMPLES} kept and {_EXAMPLES} rejected candidates, drawn by a hash of their "
        "case, round and number: first the prompt, then the completion. Long texts lack their "
        "middle.",
    ]
    for name, group in _groups(frame[frame["completion"].notna()]).items():
        rows = sorted(_records(group), key=_rank)[:_EXAMPLES]
        lines += ["", f"### {name.capitalize()}"]
        if not rows:
            lines += ["", "None."]
        for row in rows:
            lines += ["", *_example(row)]
    return lines


def _example(row: Mapping[str, Any]) -> list[str]:
    score = ABSENT if math.isnan(row["score"]) else f"{row['score']:.3f}"
    return [
        f"**Case {markdown.cell(row['case_id'])}, round {int(row['round'])}, candidate "
        f"{int(row['number'])}** ({markdown.cell(_outcome(row))}; score {score})",
        "",
        *markdown.fenced(shorten(str(row["prompt"]), _SHOWN_PROMPT)),
        "",
        *markdown.fenced(shorten(row["completion"], _SHOWN_COMPLETION)),
    ]


def _rank(row: Mapping[str, Any]) -> bytes:
    key = f"{row['case_id']}/{int(row['round'])}/{int(row['number'])}"
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _draw(folder: Path, frame: pd.DataFrame, threshold: float) -> list[str]:
    """Draw the charts that show something, and name their files."""
    drawn = []
    rounds = [(f"round {name}", each.verified_share) for name, each in _by_round(frame)]
    dimensions = [
        (name, each.verified_share) for name, each in _by_dimension(frame)[:_MOST_DIMENSIONS]
    ]
    if frame["reward"].notna().any():
        groups = {"by round": rounds} | ({"by dimension": dimensions} if dimensions else {})
        share_chart(groups, folder / "acceptance.png", "Verified candidates")
        drawn.append("acceptance.png")
    scores = {name: values.tolist() for name, values in _known(frame, "score").items()}
    if any(scores.values()):
        score_chart(scores, threshold, folder / "scores.png")
        drawn.append("scores.png")
    tokens = _known(frame, "completion_tokens")
    lengths = [(name, values.astype(int).tolist()) for name, values in tokens.items()]
    if any(values for _, values in lengths):
        known = [(name, values) for name, values in lengths if values]
        length_chart(known, folder / "lengths.png", "Tokens of a completion", "Candidates")
        drawn.append("lengths.png")
    return drawn


def _by_round(frame: pd.DataFrame) -> list[tuple[str, Acceptance]]:
    return [
        (_round_name(number), acceptance_of(group))
        for number, group in frame.groupby("round", sort=True)
    ]


def _by_dimension(frame: pd.DataFrame) -> list[tuple[str, Acceptance]]:
    """Each dimension, those of most cases first."""
    named = frame.drop(columns=["prompt"]).explode("dimensions").dropna(subset=["dimensions"])
    found = [(str(name), acceptance_of(group)) for name, group in named.groupby("dimensions")]
    return sorted(found, key=lambda item: (-item[1].cases, item[0]))


def _groups(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Kept ones, and those that a reward speaks against: what is neither is in no group."""
    rejected = frame["reward"].notna() & (frame["reward"] != 1)
    return {"kept": frame[frame["kept"]], "rejected": frame[rejected & ~frame["kept"]]}


def _known(frame: pd.DataFrame, column: str) -> dict[str, NDArray[np.float64]]:
    """The known numbers of a column, of each group."""
    values = {
        name: group[column].to_numpy(dtype=np.float64) for name, group in _groups(frame).items()
    }
    return {name: of_group[~np.isnan(of_group)] for name, of_group in values.items()}


def _names(value: object) -> list[str]:
    """The names in a cell, which a file may have made an array, each of them once."""
    if not isinstance(value, list | tuple | np.ndarray):
        return []
    return list(dict.fromkeys(str(name) for name in value))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _by_frequency(names: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))


def _round_name(number: Any) -> str:
    return f"{int(number)}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else ABSENT


def _with_interval(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return ABSENT
    return f"{figure.value:.1%} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"

"""The card of a synthesis says what is in its candidates: each figure is counted again here."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from scipy.stats import binomtest

from alignxplore_trl.reporting.synthesis_card import wilson_interval, write_synthesis_card

CHARTS = ["acceptance.png", "lengths.png", "scores.png"]
FACTS = {"teacher": "someone/teacher-7b", "sampling": "4 per case, temperature 1"}
COUNTS = {"requests": 1960, "gpu_hours": 12.345, "dollars": 0.00123, "server": "one", "warm": True}
HOSTILE = (
    "# Not a heading\n| a | b |\n|---|---|\n```\n````python\n</pre><script>alert(1)</script>\n"
    "````\n~~~\n![x](http://example.org/x.png) <!-- $$x$$ \\ \r## Nor this  __init__ &lt;"
)


def drawn_candidates(seed: int, dimensions: int = 30) -> pd.DataFrame:
    """Candidates of two rounds of every fate, with dimensions of very different frequency."""
    draws = np.random.default_rng(seed)
    rows = []
    for case in range(80):
        named = [f"dim {n}" for n in range(dimensions) if draws.random() < 2 / (n + 2)]
        for number in (1, 2):
            source = "first_round" if number == 1 else str(draws.choice(["verified", "none_found"]))
            rows += [
                {
                    "case_id": f"c{case}",
                    "round": number,
                    "number": sample,
                    "dimensions": named,
                    "earlier_from": source,
                    "prompt": f"What does user {case} like?",
                    **fate(draws, sample),
                }
                for sample in range(4)
            ]
    return pd.DataFrame(rows)


def fate(draws: np.random.Generator, sample: int) -> dict[str, object]:
    if draws.random() < 0.1:
        reason = str(draws.choice(["timeout", "refused"]))
        return {"unanswered": reason, "kept": False}
    answer = {
        "completion": "because </think> <answer> brief </answer>",
        "finish_reason": [None, "stop", "length"][draws.integers(3)],
        "completion_tokens": int(draws.integers(5, 500)),
    }
    if draws.random() < 0.2:
        problem = str(draws.choice(["no_answer", "repeated_tag"]))
        return answer | {"outcome": problem, "reward": 0.0, "kept": False}
    if draws.random() < 0.1:
        return answer | {"outcome": "well_formed", "kept": False}
    score = float(draws.random())
    reward = float(score > 0.5)
    kept = reward == 1 and sample < 3
    return answer | {"outcome": "well_formed", "score": score, "reward": reward, "kept": kept}


def card_of(folder, frame: pd.DataFrame, threshold: float = 0.5) -> str:
    write_synthesis_card(folder, frame, FACTS, COUNTS, threshold)
    return (folder / "card.md").read_text(encoding="utf-8")


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """The cells of all rows of all tables, headers and the lines below them left out."""
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for table in tables
        for line in table.strip().split("\n")[2:]
    ]


def verified(frame: pd.DataFrame) -> str:
    rewards = frame["reward"].dropna()
    good = int((rewards == 1).sum())
    low, high = binomtest(good, len(rewards)).proportion_ci(method="wilson")
    return f"{good / len(rewards):.1%} ({100 * low:.1f}–{100 * high:.1f})"


def cases_kept(frame: pd.DataFrame) -> str:
    count = len(set(frame[frame.kept].case_id))
    return f"{count:,} ({count / len(set(frame.case_id)):.1%})"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return drawn_candidates(0)


@pytest.fixture(scope="module")
def card(frame, tmp_path_factory) -> str:
    return card_of(tmp_path_factory.mktemp("card"), frame)


def test_the_front_matter_is_what_the_hub_reads(card):
    _, front, rest = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["task_categories"] == ["text-generation"]
    [files] = metadata["configs"][0]["data_files"]
    assert files == {"split": "train", "path": "examples.parquet"}
    assert rest.lstrip().startswith("# ")


def test_facts_and_counts_are_shown_as_they_were_given(card):
    assert rows_of(card)[:2] == [[name, value] for name, value in FACTS.items()]
    assert rows_of(section(card, "Counts")) == [
        ["dollars", "0.00123"],
        ["gpu_hours", "12.35"],
        ["requests", "1,960"],
        ["server", "one"],
        ["warm", "yes"],
    ]


def test_each_round_and_all_together(card, frame):
    parts = [(str(n), frame[frame["round"] == n]) for n in (1, 2)] + [("all", frame)]
    assert rows_of(section(card, "Verification by round")) == [
        [
            name,
            str(len(set(part.case_id))),
            str(len(part)),
            str(part.unanswered.notna().sum()),
            f"{(part.outcome == 'well_formed').sum() / part.completion.notna().sum():.1%}",
            verified(part),
            str(part.kept.sum()),
            cases_kept(part),
        ]
        for name, part in parts
    ]
    assert f"{len(frame)} candidates of 80 cases; {frame.kept.sum()} of them" in card


def test_each_candidate_has_one_outcome(card, frame):
    found = {row[0]: row[1:] for row in rows_of(section(card, "Outcomes"))}
    well_formed = frame[frame.outcome == "well_formed"]
    expected = {
        "kept": frame.kept.sum(),
        "verified, but not kept": ((frame.reward == 1) & ~frame.kept.astype(bool)).sum(),
        "well-formed, but not verified": (well_formed.reward == 0).sum(),
        "well-formed, but not judged": well_formed.reward.isna().sum(),
        "malformed: no_answer": (frame.outcome == "no_answer").sum(),
        "malformed: repeated_tag": (frame.outcome == "repeated_tag").sum(),
        "unanswered: timeout": (frame.unanswered == "timeout").sum(),
        "unanswered: refused": (frame.unanswered == "refused").sum(),
    }
    assert sum(expected.values()) == len(frame)
    answered = frame[frame.completion.notna()]
    finishes = answered.finish_reason.fillna("not given")
    for name, count in expected.items():
        assert found.pop(name) == [str(count), f"{count / len(frame):.1%}"]
    for name, count in finishes.value_counts().items():
        own = answered[finishes == name]
        whole = (own.outcome == "well_formed").mean()
        assert found.pop(name) == [str(count), f"{count / len(answered):.1%}", f"{whole:.1%}"]
    assert not found


def test_lengths_and_margins_of_kept_and_rejected(card, frame):
    groups = {"kept": frame[frame.kept], "rejected": frame[frame.reward == 0]}
    lengths = rows_of(section(card, "Lengths"))
    margins = rows_of(section(card, "Margins"))
    for (name, group), length, margin in zip(groups.items(), lengths, margins, strict=True):
        tokens, scores = group.completion_tokens, group.score.dropna()
        quantiles = [f"{tokens.quantile(level):.0f}" for level in (0.05, 0.5, 0.95)]
        assert length == [name, str(len(tokens)), *quantiles]
        levels = (0.05, 0.25, 0.5, 0.75, 0.95)
        quantiles = [f"{scores.quantile(level) - 0.5:+.3f}" for level in levels]
        assert margin == [name, str(len(scores)), *quantiles]


def test_margins_follow_the_threshold(frame, tmp_path):
    margins = rows_of(section(card_of(tmp_path, frame, threshold=0.0), "Margins"))
    assert margins[0][4] == f"{frame[frame.kept].score.median():+.3f}"


def test_the_most_frequent_dimensions_come_first(card, frame):
    cases = frame.drop_duplicates("case_id").explode("dimensions")
    frequencies = cases.groupby("dimensions").size()
    order = sorted(frequencies.index, key=lambda name: (-frequencies[name], name))
    text = section(card, "Dimensions")
    for name, row in zip(order, rows_of(text), strict=False):
        part = frame[[name in named for named in frame.dimensions]]
        assert row == [name, str(frequencies[name]), verified(part), cases_kept(part)]
    assert len(rows_of(text)) == 25
    assert text.strip().endswith(f"… and {len(order) - 25} more.")


def test_few_dimensions_are_all_shown(tmp_path):
    text = section(card_of(tmp_path, drawn_candidates(1, dimensions=3)), "Dimensions")
    assert len(rows_of(text)) == 3
    assert "more." not in text


def test_where_earlier_descriptions_came_from(card, frame):
    later = frame[frame["round"] == 2]
    assert sorted(rows_of(section(card, "Earlier descriptions"))) == [
        ["2", source, str(part.case_id.nunique()), str(len(part))]
        for source, part in later.groupby("earlier_from")
    ]


def test_examples_are_drawn_alike_whatever_the_order(card, frame, tmp_path):
    text = section(card, "Examples of candidates")
    shown = re.findall(r"\*\*Case (\S+), round (\d), candidate (\d)\*\* \(([^;]+);", text)
    assert len(shown) == 6
    for case, number, sample, outcome in shown:
        [row] = frame.query(f"case_id == '{case}' and round == {number} and number == {sample}")[
            ["kept", "reward"]
        ].to_dict("records")
        assert row["kept"] == (outcome == "kept")
        assert row["reward"] == float(row["kept"])
    assert [outcome == "kept" for *_, outcome in shown] == [True] * 3 + [False] * 3
    assert card_of(tmp_path, frame.sample(frac=1, random_state=0)) == card


def test_a_file_of_candidates_gives_the_same_card(card, frame, tmp_path):
    frame.to_parquet(tmp_path / "candidates.parquet")
    assert card_of(tmp_path, pd.read_parquet(tmp_path / "candidates.parquet")) == card


def test_long_texts_lack_their_middle(frame, tmp_path):
    long = frame.assign(prompt="start " + "word " * 5000 + "end")
    text = section(card_of(tmp_path, long), "Examples of candidates")
    assert text.count(" […] ") == 6
    assert len(text) < 6 * 2500
    assert "start word" in text
    assert "word end\n" in text


def test_texts_of_others_stay_texts(frame, tmp_path):
    columns = ("prompt", "case_id", "finish_reason", "earlier_from")
    hostile = frame.assign(**dict.fromkeys(columns, HOSTILE))
    hostile["completion"] = frame.completion.where(frame.completion.isna(), HOSTILE)
    hostile["dimensions"] = [[HOSTILE, r"costs $\nothing$ at all"] for _ in range(len(frame))]
    write_synthesis_card(tmp_path, hostile, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, 0.5)
    _, _, body = (tmp_path / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [child for token in tokens for child in token.children or []]
    titles = [tokens[n + 1].content for n, each in enumerate(tokens) if each.type == "heading_open"]
    assert titles == [
        "Verified inferences of user preferences",
        "Verification by round",
        "Outcomes",
        "Lengths",
        "Margins",
        "Dimensions",
        "Earlier descriptions",
        "Examples of candidates",
        "Kept",
        "Rejected",
        "Counts",
    ]
    assert not [each for each in [*tokens, *inline] if each.type.startswith(("html", "link"))]
    images = [each.attrs["src"] for each in inline if each.type == "image"]
    assert sorted(images) == CHARTS
    fences = [each.content for each in tokens if each.type == "fence"]
    # Markdown ends a line at a carriage return, too.
    expected = HOSTILE.replace("\r", "\n") + "\n"
    assert fences == [expected] * 12
    one_line = " ".join(expected.split())
    cells = ["".join(part.content for part in each.children or []) for each in tokens]
    # Twice among the facts, twice among the counts, and each once of its column.
    assert cells.count(one_line) == 7
    assert not [each for each in inline if each.type in ("strong_open", "em_open", "s_open")][6:]


@pytest.mark.parametrize("seed", range(3))
def test_wilson_intervals(seed):
    draws = np.random.default_rng(seed)
    trials = int(draws.integers(1, 500))
    for successes in (0, int(draws.integers(trials + 1)), trials):
        found = wilson_interval(successes, trials)
        interval = binomtest(successes, trials).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx(interval, abs=1e-9)
    assert wilson_interval(0, 0).value is None


DEGENERATE = {
    "no candidates": lambda frame: frame.iloc[:0],
    "no columns": lambda frame: pd.DataFrame(),
    "none kept": lambda frame: frame.assign(kept=False, reward=0.0),
    "all kept": lambda frame: frame[frame.kept],
    "none answered": lambda frame: frame.assign(
        completion=None,
        finish_reason=None,
        completion_tokens=None,
        outcome=None,
        score=None,
        reward=None,
        kept=False,
        unanswered="timeout",
    ),
    "none judged": lambda frame: frame.assign(score=None, reward=None, kept=False),
    "no scores": lambda frame: frame.assign(score=None),
    "infinite scores": lambda frame: frame.assign(score=-np.inf),
    "no dimensions": lambda frame: frame.assign(dimensions=[[] for _ in range(len(frame))]),
    "unknown dimensions": lambda frame: frame.assign(dimensions=None),
    "one round": lambda frame: frame[frame["round"] == 1],
    "one candidate": lambda frame: frame[frame.kept].iloc[:1],
    "no lengths": lambda frame: frame.assign(completion_tokens=None),
    "nullable": lambda frame: frame.convert_dtypes(),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_card_of_whatever_came(name, frame, tmp_path):
    card = card_of(tmp_path, DEGENERATE[name](frame))
    assert not re.search(
        r"\b(nan|none|null|inf|<NA>)\b(?!_found)", card.replace("None.\n", ""), re.I
    )
    charts = sorted(path.name for path in tmp_path.glob("*.png"))
    assert charts == sorted(re.findall(r"\]\((\w+\.png)\)", card))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*charts, "card.md"])
    drawn = {
        "no candidates": [],
        "no columns": [],
        "none answered": [],
        "none judged": [],
        "no scores": CHARTS[:2],
        "infinite scores": CHARTS[:2],
        "no lengths": [CHARTS[0], CHARTS[2]],
    }
    expected = drawn.get(name, CHARTS)
    assert charts == expected


def test_half_surrogates_have_no_place_in_a_file(frame, tmp_path):
    write_synthesis_card(tmp_path, frame, {"teacher": "a\ud800b"}, {}, 0.5)
    assert ["teacher", "a?b"] in rows_of((tmp_path / "card.md").read_text(encoding="utf-8"))


def test_a_card_without_facts_and_counts(frame, tmp_path):
    write_synthesis_card(tmp_path, frame, {}, {}, 0.5)
    card = (tmp_path / "card.md").read_text()
    assert card.endswith("Nothing else was counted.\n")

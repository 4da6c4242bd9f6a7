"""Replies under descriptions, and the judge that knows what the user wants."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.figures import expand_pairs
from alignxplore_trl.evaluation.win_rate import (
    compare_replies,
    draw_cases,
    replies_table,
    wins_table,
    write_replies,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.prompts import Prompts
from tests.evaluation.doubles import ScriptedWriter, WordJudge, make_case

CASES = [make_case(n) for n in range(6)] + [make_case(6, description=None)]
ROWS = pd.DataFrame(
    [
        {"benchmark": "world", "method": method, "setting": "base4", "case_id": f"case{n}"}
        | {"description": text}
        for n in range(7)
        for method, text in (
            ("good", "prefers brief"),
            ("bad", "prefers detailed" if n else None),  # Malformed once.
            ("same", "prefers brief"),
        )
    ]
)


def replies_to(prompt: str) -> str | None:
    if "post 5-" in prompt:
        return None
    known = [word for word in ("brief", "detailed") if f"prefers {word}" in prompt]
    return " ".join(known) or "anything"


@pytest.mark.parametrize(("pair", "score"), [("good - bad", 1.0), ("bad - good", 0.0)])
def test_wins_ties_and_what_is_missing(pair: str, score: float, tmp_path: Path) -> None:
    benchmark, judge = Benchmark("world", CASES, "", 0), WordJudge()
    writer = ScriptedWriter(script=replies_to)
    judge.silent = {CASES[4].target.post}
    replies, wins = replies_table(tmp_path), wins_table(tmp_path)
    pairs = expand_pairs([pair, "good - same"], ROWS)
    cases = draw_cases([benchmark], None)

    write_replies(writer, Prompts("default"), pairs, ROWS, cases, replies, 0)
    compare_replies("judge", judge, pairs, cases, replies, wins)

    own = wins.rows[wins.rows.method == pair.replace(" ", "")].set_index("case_id")
    # No reply to case 5, no answer about case 4, no truth of case 6.
    assert own.index.tolist() == [f"case{n}" for n in range(5)]
    assert own.score.tolist()[:4] == [score] * 4
    assert pd.isna(own.score["case4"])
    # Equal replies are a tie, about which no judge is asked.
    assert wins.rows[wins.rows.method == "good-same"].score.tolist() == [0.5] * 5
    assert len(judge.asked) == 2 * 5
    assert all(question.description == "prefers brief" for question in judge.asked)
    first = writer.prompts.index(next(p for p in writer.prompts if "prefers" not in p))
    assert "post 0-" in writer.prompts[first]  # Without a description under a malformed one.

    written, asked = len(writer.prompts), len(judge.asked)
    write_replies(writer, Prompts("default"), pairs, ROWS, cases, replies, 0)
    compare_replies("judge", judge, pairs, cases, replies, wins)
    assert (len(writer.prompts), len(judge.asked)) == (written + 3, asked + 2)  # Those missing.


def test_a_reply_that_wins_in_one_order_only_ties(tmp_path: Path) -> None:
    class FirstJudge(WordJudge):
        def _answer(self, question):  # type: ignore[no-untyped-def, override]
            return type(super()._answer(question))(0.9, 1.0)

    benchmark = Benchmark("world", CASES[:2], "", 0)
    replies, wins = replies_table(tmp_path), wins_table(tmp_path)
    pairs, cases = expand_pairs(["good - bad"], ROWS), draw_cases([benchmark], None)
    writer = ScriptedWriter(script=replies_to)
    write_replies(writer, Prompts("default"), pairs, ROWS, cases, replies, 0)

    compare_replies("judge", FirstJudge(), pairs, cases, replies, wins)

    assert wins.rows.score.tolist() == [0.5, 0.5]
    assert wins.rows.p_shown_second.tolist() == pytest.approx([0.1, 0.1])


def test_pairs_of_methods() -> None:
    places = ["rl/base4", "rl/streaming4+4", "rl/streaming4+4@1", "pba/base4", "golden/any"]
    rows = pd.DataFrame([own.split("/") for own in places], columns=["method", "setting"])

    assert expand_pairs(["rl - pba"], rows) == [(("rl", "base4"), ("pba", "base4"))]
    assert len(expand_pairs(["golden - rl"], rows)) == 2
    assert expand_pairs(["rl/streaming4+4 - rl/streaming4+4@1", "rl - vpl"], rows) == [
        (("rl", "streaming4+4"), ("rl", "streaming4+4@1"))
    ]
    with pytest.raises(UserError, match=r"rl-pba.*<method> - <method>"):
        expand_pairs(["rl-pba"], rows)


def test_as_many_cases_as_asked_for_are_drawn_among_those_with_a_truth() -> None:
    drawn = draw_cases([Benchmark("world", CASES[::-1], "", 0)], 2)

    assert drawn.case_id.tolist() == ["case5", "case4"]

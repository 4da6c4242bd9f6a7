"""Cases and signals: what is written is read again, and broken lines are named."""

import pytest

from alignxplore_trl.cases import (
    Attributes,
    Case,
    Comparison,
    Post,
    decode_signals,
    encode_signals,
    read_cases,
    write_lines,
)
from alignxplore_trl.run.errors import UserError

PAIR = Comparison("p", "yes", "no")


def test_cases_survive_a_file(tmp_path):
    cases = [
        Case("1", "u", (PAIR, Post("a", "b"), Attributes("c")), PAIR.reversed()),
        Case("2", "u", (PAIR,), PAIR, {"d": "x"}, "true words", "cluster", ((0.5, 1.0),)),
    ]
    write_lines(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]
    assert [case.unit for case in cases] == ["u", "cluster"]
    assert decode_signals(encode_signals(cases[0].signals)) == cases[0].signals
    assert PAIR.shows_pair_of(PAIR.reversed())
    assert not PAIR.shows_pair_of(Comparison("p", "yes", "maybe"))


@pytest.mark.parametrize("line", [b"{", b'{"case_id": "1"}', b'"\xff"'])
def test_a_line_that_is_no_case_is_named(tmp_path, line):
    path = tmp_path / "cases.jsonl"
    write_lines(path, [Case("1", "u", (), PAIR)])
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(UserError, match=r"cases\.jsonl, line 2: not a case"):
        read_cases(path)


@pytest.mark.parametrize(("size", "count", "expected"), [(4, 1, [4]), (4, 3, [4, 4]), (10, 1, [])])
def test_rounds_are_whole(size, count, expected):
    signals = tuple(Attributes(str(number)) for number in range(9))
    rounds = Case("1", "u", signals, PAIR).rounds(size, count)
    assert [len(signals) for signals in rounds] == expected
    assert sum(rounds, ()) == signals[: sum(expected)]

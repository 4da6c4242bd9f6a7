"""Which cases a name stands for, and what is done to them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alignxplore_trl.baselines.protocol import Setting
from alignxplore_trl.cases import read_cases, write_lines
from alignxplore_trl.evaluation.benchmarks import read_benchmark, read_settings
from alignxplore_trl.run.errors import UserError
from tests.evaluation.doubles import make_case


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    # As P-SOUPS's files come: one direction after the other.
    cases = [make_case(n, direction="brief" if n < 20 else "detailed") for n in range(40)]
    for name in ("world", "world_more"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "test.jsonl", cases)
    write_lines(tmp_path / "world" / "validation.jsonl", cases[:1])
    return {name: tmp_path / name for name in ("world", "world_more")}


def read(name: str, folders: dict[str, Path], limit: int | None = None):  # type: ignore[no-untyped-def]
    return read_benchmark(name, folders, limit, seed=0)


def test_names(folders: dict[str, Path]) -> None:
    assert len(read("world", folders).whole) == 40
    assert read("world_validation_shuffled", folders).variation == "shuffled"
    assert read("world_more_drift3", folders).variation == "drift3"
    assert len(read("world_validation", folders).whole) == 1


@pytest.mark.parametrize("name", ["wrold", "world_revresed", "world_valid", "worlds", ""])
def test_a_name_that_is_none_is_refused_with_those_that_are(
    name: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(
        UserError, match=r"expected .*world_validation.*drift<k>.*evaluation\.prepared"
    ):
        read(name, folders)


def test_a_limit_takes_all_kinds_and_a_larger_one_the_same_cases(folders: dict[str, Path]) -> None:
    ten, twenty = (read("world", folders, limit).whole for limit in (10, 20))

    assert list(twenty[:10]) == list(ten)
    assert len(Counter(case.description for case in ten)) == 2


def test_a_variation_is_of_the_signals_that_are_read(folders: dict[str, Path]) -> None:
    benchmark = read("world_one_reversed", folders)

    for count in (4, 8):
        for case in benchmark.cases("at_once", Setting(count)):
            words = [signal.chosen.split()[0] for signal in case.signals]  # type: ignore[union-attr]
            assert Counter(words)[case.target.chosen.split()[0]] == count - 1
    assert benchmark.scored == benchmark.whole


def test_reversed_turns_signals_target_and_truth(folders: dict[str, Path], tmp_path: Path) -> None:
    benchmark = read("world_reversed", folders)
    before = {case.case_id: case for case in benchmark.whole}

    for case in (*benchmark.scored, *benchmark.cases("in_rounds", Setting(4, 2))):
        old = before[case.case_id]
        assert case.target == old.target.reversed()
        assert case.description != old.description
        assert case.signals[0].chosen == old.signals[0].rejected  # type: ignore[union-attr]

    benchmark.keep(tmp_path)
    assert read_cases(tmp_path / "world_reversed.jsonl") == list(benchmark.scored)


def test_settings_that_read_too_much_have_no_cases(folders: dict[str, Path]) -> None:
    benchmark = read("world_drift6", folders)

    assert benchmark.cases("at_once", Setting(4)) == []  # Six of four can't be turned.
    assert len(benchmark.cases("at_once", Setting(8))) == 40
    assert benchmark.cases("in_rounds", Setting(4, 3)) == []
    assert read_settings(["base4", "streaming4+4+4"], [benchmark]) == [Setting(4), Setting(4, 3)]
    with pytest.raises(UserError, match="at most 8 signals"):
        read_settings(["base16"], [benchmark])


def test_names_of_settings_are_read_back_or_refused() -> None:
    for name in ("base8", "streaming4+4", "streaming2+2+2"):
        assert Setting.from_name(name).name == name
    for name in ("base", "base4+4", "streaming4", "streaming4+8", "base04", "rl"):
        with pytest.raises(UserError, match="rounds of one size"):
            Setting.from_name(name)

"""Files of an evaluation: every row with its types, complete or not there."""

from dataclasses import asdict, replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignxplore_trl.data.sources import case_from_columns
from alignxplore_trl.evaluation.files import (
    write_cases,
    write_descriptions,
    write_groups,
    write_verdicts,
)
from alignxplore_trl.evaluation.groups import accuracy_by_group
from alignxplore_trl.evaluation.scoring import score
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap


@pytest.fixture
def scores(cases, methods, judges, generators):
    return score("world", cases, methods, judges, generators, len, faithfulness=True)


def read(path):
    return pq.read_table(path).to_pylist()


def test_verdicts(tmp_path, scores):
    path = tmp_path / "completions" / "verdicts.parquet"
    write_verdicts(path, scores.verdicts)
    assert read(path) == [asdict(row) for row in scores.verdicts]
    assert {row["metric"] for row in read(path)} == {"acc_jud", "acc_gen", "reasoning"}


def test_descriptions(tmp_path, scores):
    path = tmp_path / "descriptions.parquet"
    write_descriptions(path, scores.descriptions)
    rows = read(path)
    for row, own in zip(rows, scores.descriptions, strict=True):
        expected = {"benchmark": "world", "method": own.method, "setting": own.setting}
        expected |= {"cluster": own.cluster, "description_tokens": own.description_tokens}
        assert row == asdict(own.said) | expected
    assert {row["format_problem"] for row in rows} == {None, "answer_not_closed"}
    assert {row["method"] for row in rows} == {"null", "golden", "reader"}


def test_cases(tmp_path, cases):
    path = tmp_path / "cases.parquet"
    write_cases(path, {"world": cases, "world_again": cases[:3]})
    rows = read(path)
    assert [case_from_columns(row) for row in rows] == [*cases, *cases[:3]]
    assert [row["benchmark"] for row in rows] == ["world"] * len(cases) + ["world_again"] * 3


def test_groups(tmp_path, cases, scores):
    path = tmp_path / "groups.parquet"
    clusters = ClusteredBootstrap([case.cluster for case in cases])
    groups = accuracy_by_group(cases, scores.verdicts, clusters)
    write_groups(path, groups.rows)
    assert read(path) == [asdict(row) for row in groups.rows]


@pytest.mark.parametrize("write", [write_verdicts, write_descriptions, write_groups])
def test_no_rows_are_a_file_with_columns(tmp_path, write):
    write(tmp_path / "rows.parquet", [])
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert table.empty
    assert {"benchmark", "method", "setting"} <= set(table.columns)


def test_what_cannot_be_written_leaves_the_file_before(tmp_path, scores):
    path = tmp_path / "verdicts.parquet"
    write_verdicts(path, scores.verdicts)
    before = path.read_bytes()
    with pytest.raises(pa.ArrowInvalid):
        write_verdicts(path, [replace(scores.verdicts[0], correct="right")])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["verdicts.parquet"]

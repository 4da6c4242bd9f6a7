"""metrics.jsonl after clean ends, kills and resumes; lines on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from alignxplore_trl.run.callbacks import LinesCallback, MetricsCallback
from alignxplore_trl.run.metrics import append_metrics, read_metrics


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])


def state(step: int, *, main: bool = True, last: int = 10) -> TrainerState:
    found = TrainerState(is_world_process_zero=main, max_steps=last)
    found.global_step, found.epoch = step, step / 4
    return found


def test_each_log_line_is_a_row_with_step_and_epoch(
    tmp_path: Path, arguments: TrainingArguments
) -> None:
    callback = MetricsCallback(tmp_path / "metrics.jsonl")
    callback.on_train_begin(arguments, state(0), TrainerControl())
    callback.on_log(arguments, state(1), TrainerControl(), logs={"loss": 0.5})
    callback.on_log(arguments, state(2), TrainerControl(), logs={"loss": 0.25})
    callback.on_log(arguments, state(2, main=False), TrainerControl(), logs={"loss": 9.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "epoch": 0.25, "loss": 0.5},
        {"step": 2, "epoch": 0.5, "loss": 0.25},
    ]


def test_a_resume_forgets_what_lies_after_its_checkpoint(
    tmp_path: Path, arguments: TrainingArguments
) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        append_metrics(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    MetricsCallback(path).on_train_begin(arguments, state(3), TrainerControl())
    append_metrics(path, {"step": 4})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_lines_come_at_intervals_and_at_the_end(
    arguments: TrainingArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = LinesCallback()
    for step in range(1, 11):
        logs = {"reward": step / 10, "other": 1.0}
        callback.on_log(arguments, state(step), TrainerControl(), logs=logs)
    # What a run took is logged once more after its last step.
    callback.on_log(arguments, state(10), TrainerControl(), logs={"train_runtime": 3.0})
    assert capsys.readouterr().err == "step 1/10  reward 0.1\nstep 10/10  reward 1\n"

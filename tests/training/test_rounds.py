"""Rounds: the order of blocks, what a case brings into its next round, what is logged."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
from datasets import Dataset

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import PromptTooLongError
from alignxplore_trl.text.completions import Inference, parse_completion
from alignxplore_trl.training.blocks import in_blocks
from alignxplore_trl.training.callbacks import Log, train
from alignxplore_trl.training.rounds import RoundsConfig
from tests.training import tiny


def rows_of(rounds_of_cases):
    """Rows with numbers instead of texts: case -> how many rounds it has."""
    return Dataset.from_list(
        [
            {"case_id": str(case), "round": number}
            for case, rounds in enumerate(rounds_of_cases)
            for number in range(1, rounds + 1)
        ]
    )


def laid_out(folder, rounds_of_cases, rounds, credit=False, **changes):
    args = tiny.arguments(RoundsConfig, str(folder), **changes)
    found = in_blocks(rows_of(rounds_of_cases), args, rounds, together=credit)
    return [(row["epoch"], row["case_id"], row["round"]) for row in found]


def test_a_block_is_played_in_all_its_rounds_before_the_next(tmp_path):
    """Batches of four cases: two blocks of three rounds, one of two; two cases are left out."""
    order = laid_out(tmp_path, [3] * 9 + [2] * 5, 3, num_train_epochs=2)
    batches = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert len(batches) == 2 * (3 + 3 + 2)
    assert all(len({(epoch, number) for epoch, _, number in batch}) == 1 for batch in batches)
    begun = [place for place, batch in enumerate(batches) if batch[0][2] == 1]
    for first, following in zip(begun, [*begun[1:], len(batches)], strict=True):
        block = batches[first:following]
        assert [batch[0][2] for batch in block] in ([1, 2, 3], [1, 2])
        assert len({tuple(case for _, case, _ in batch) for batch in block}) == 1
    first, second = (order[: len(order) // 2], order[len(order) // 2 :])
    assert {epoch for epoch, *_ in first} == {0}
    assert [row[1:] for row in first] != [row[1:] for row in second]
    assert order == laid_out(tmp_path, [3] * 9 + [2] * 5, 3, num_train_epochs=2)
    assert order != laid_out(tmp_path, [3] * 9 + [2] * 5, 3, num_train_epochs=2, seed=4)


def test_with_credit_a_batch_holds_all_rounds_of_its_cases_case_after_case(tmp_path):
    order = laid_out(tmp_path, [2] * 5 + [1] * 4, 2, credit=True, num_train_epochs=1)
    assert [number for *_, number in order] == [1, 2] * 4
    assert all(one[1] == two[1] for one, two in zip(order[::2], order[1::2], strict=True))


def test_as_many_batches_are_laid_out_as_there_are_steps(tmp_path):
    order = laid_out(tmp_path, [2] * 9, 2, max_steps=7)
    assert len(order) == 7 * 4
    assert order[-1][0] == 1  # In the second epoch.
    assert len(laid_out(tmp_path, [2] * 9, 2, num_train_epochs=0.5)) == 2 * 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two epochs of two blocks in two rounds: the trainer, and the tables of its eight steps."""
    folder = tmp_path_factory.mktemp("rounds")
    trainer = tiny.rl(str(folder), num_train_epochs=2)
    trainer.add_callback(Log(folder / "metrics.jsonl"))
    records = []
    logger = logging.getLogger("trl.trainer.grpo_trainer")
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    train(trainer, trainer.args.steps_per_checkpoint)
    logger.removeHandler(handler)
    files = sorted((folder / "completions").iterdir())
    return trainer, [pd.read_parquet(file) for file in files], folder, records


def test_a_round_starts_from_one_of_the_cases_own_well_formed_rollouts(trained):
    _, tables, _, _ = trained
    assert [set(table["round"]) for table in tables] == [{1}, {2}] * 4
    for one, two in zip(tables[::2], tables[1::2], strict=True):
        assert one["d_prev"].isna().all()
        for case, group in two.groupby("case_id"):
            outcomes = map(parse_completion, one[one["case_id"] == case]["completion"])
            written = [each.description for each in outcomes if isinstance(each, Inference)]
            (earlier,) = set(group["d_prev"])
            if not written:
                assert pd.isna(earlier)
                assert "<earlier>" not in group["prompt"].iloc[0]
                continue
            assert earlier in written
            assert f"<earlier> {earlier.replace('<', '&lt;')}" in group["prompt"].iloc[0]
            assert group["prompt"].nunique() == 1
    assert any(table["d_prev"].isna().any() for table in tables[1::2])
    assert any(table["d_prev"].notna().any() for table in tables[1::2])


def test_what_is_logged_is_what_the_tables_hold(trained):
    trainer, tables, folder, _ = trained
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == trainer.state.log_history
    for line, table in zip(lines, tables, strict=False):
        number = table["round"].iloc[0]
        assert line[f"reward/round_{number}"] == pytest.approx(table["reward"].mean())
        spread = table.groupby("case_id")["reward"].nunique()
        flat = line[f"groups_that_teach_nothing/round_{number}"]
        assert flat == pytest.approx((spread < 2).mean())
        if number == 2:
            missing = table["d_prev"].isna().mean()
            assert line["earlier_description/missing"] == pytest.approx(missing)


def test_no_user_text_goes_to_the_screen(trained, capsys):
    _, tables, _, records = trained
    assert any(table["reward"].isna().any() for table in tables)
    assert not any("case_id" in record for record in records)


def test_a_description_that_doesnt_fit_is_left_out_and_counted(tmp_path):
    def prompt_with(row, earlier):
        if int(row["case_id"][-1]) % 2:
            raise PromptTooLongError("too long")
        return tiny.budget(60).fit("inference", tiny.decode_signals(row["signals"]), earlier)

    trainer = tiny.rl(str(tmp_path), cases=4, num_train_epochs=1)
    trainer.prompt_with = prompt_with
    trainer.train()
    table = pd.read_parquet(tmp_path / "completions/completions_00002.parquet")
    odd = table["case_id"].str[-1].astype(int) % 2 == 1
    assert table[odd]["d_prev"].isna().all()
    line = trainer.state.log_history[1]
    assert line["earlier_description/prompt_shortened"] > 0


def test_tables_are_written_for_whole_blocks(tmp_path):
    trainer = tiny.rl(str(tmp_path), num_train_epochs=2, completions_every=4)
    trainer.train()
    files = sorted(file.stem[-1] for file in (tmp_path / "completions").iterdir())
    assert files == ["3", "4", "7", "8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "strictly positive"),
        ({"eval_strategy": "steps"}, "eval_strategy"),
        ({"max_steps": 3, "gradient_accumulation_steps": 1}, "multiple of 2"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True"),
    ],
)
def test_values_under_which_rounds_would_be_wrong_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        tiny.arguments(RoundsConfig, str(tmp_path), **{"steps_per_generation": 2, **change})


def test_batches_that_cant_be_filled_are_refused_with_the_arithmetic(tmp_path):
    with pytest.raises(UserError, match=r"3 cases found, expected at least 4 .* of 16 completions"):
        laid_out(tmp_path, [2] * 3, 2)
    with pytest.raises(UserError, match=r"8 x steps_per_generation 2 = 16 .* = 12"):
        laid_out(tmp_path, [3] * 9, 3, credit=True)

"""Checkpoints: marks, signals, and resumes that leave no trace, in one process."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from alignxplore_trl.run.errors import StoppedBySignalError
from alignxplore_trl.training.callbacks import last_complete_checkpoint, train
from tests.training import tiny


class Signal(TrainerCallback):
    """A signal to this process while a step is at work."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **rest):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def test_what_a_kill_left_half_written_is_deleted(tmp_path):
    for step in (1, 5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    for step in (3, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (3, 20):
        (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "checkpoint-3"]
    assert last_complete_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_end_of_the_generation_batch_and_the_run_goes_on(tmp_path, number):
    """Four steps a batch (told in the second), rounds in between, then in the second epoch."""
    run = {
        "kind": "framed", "num_train_epochs": 2, "gradient_accumulation_steps": 1,
        "steps_per_generation": 4, "cases": 8, "save_steps": 3, "share_prompts": False,
    }  # fmt: skip
    whole = tiny.rl(str(tmp_path / "whole"), **run)
    figures = train(whole, whole.args.steps_per_checkpoint)
    assert figures["steps"] == 16
    saved = {path.name for path in (tmp_path / "whole").glob("checkpoint-*")}
    assert saved == {"checkpoint-12", "checkpoint-16"}, "one by interval waits for its batch's end"
    for step, checkpoint in ((1, "checkpoint-4"), (9, "checkpoint-12")):
        trainer = tiny.rl(str(tmp_path / "told"), **run)
        trainer.add_callback(Signal(step, number))
        with pytest.raises(StoppedBySignalError) as stopped:
            train(trainer, trainer.args.steps_per_checkpoint)
        assert stopped.value.number == number
        assert signal.getsignal(number) == signal.SIG_DFL
        saved = sorted(path.name for path in (tmp_path / "told").glob("checkpoint-*"))
        assert saved[-1 if step == 1 else 0] == checkpoint
        assert last_complete_checkpoint(tmp_path / "told").endswith(checkpoint)
    again = tiny.rl(str(tmp_path / "told"), **run)
    assert train(again, again.args.steps_per_checkpoint) == {"steps": 16}
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    for file in sorted((tmp_path / "whole/completions").iterdir()):
        assert file.read_bytes() == (tmp_path / "told/completions" / file.name).read_bytes()


@pytest.mark.parametrize("credit", [0.0, 0.9])
def test_a_resume_leaves_no_trace_between_rounds_and_in_a_later_epoch(tmp_path, credit):
    run = {"kind": "framed", "num_train_epochs": 3, "round_credit": credit}
    steps = 12
    whole = tiny.rl(str(tmp_path / "whole"), **run)
    assert train(whole)["steps"] == steps
    for stop in (1, 6, 7):
        trainer = tiny.rl(str(tmp_path / "told"), **run)
        trainer.add_callback(Signal(stop - 1, signal.SIGTERM))
        with pytest.raises(StoppedBySignalError):
            train(trainer)
    again = tiny.rl(str(tmp_path / "told"), **run)
    assert train(again) == {"steps": steps}
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    losses = [[line.get("loss") for line in t.state.log_history][:steps] for t in (whole, again)]
    assert losses[0] == losses[1]

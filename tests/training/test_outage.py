"""A judge that is out: the batch waits or the run ends, the same on every process."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny_training
import torch
from tiny_training import OutReward, Run, launch, make_trainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.checkpoints import last_complete_checkpoint
from alignxplore_trl.training.outage import ContainedReward, OutageSettings, answered_rewards

NAN = float("nan")
WAIT = OutageSettings(share=0.25, action="wait", pause_seconds=2.0, limit_seconds=100.0)


def rewards_of(*values):
    return torch.tensor(values)[:, None]


def test_answered_batches_pass_at_once():
    for unscored in (0, 1):
        answer = rewards_of(*[NAN] * unscored, *[1.0] * (4 - unscored))
        assert answered_rewards(lambda a=answer: a, 4, WAIT, sleep=pytest.fail) is answer


def test_an_outage_is_waited_out():
    attempts = iter([rewards_of(NAN, NAN, 1.0, 0.0), rewards_of(NAN, 1.0, 1.0, 0.0)])
    pauses = []
    rewards = answered_rewards(lambda: next(attempts), 4, WAIT, pauses.append)
    assert pauses == [2.0]
    assert rewards.isnan().sum() == 1


def test_malformed_completions_are_not_the_judges_fault_and_do_not_hide_it():
    # Eight completions, two of them well-formed, and neither of these scored.
    answer = rewards_of(NAN, NAN, *[0.0] * 6)
    with pytest.raises(UserError, match=r"no answer on 2 of 2 well-formed completions"):
        answered_rewards(lambda: answer, 2, replace(WAIT, action="abort"))


def test_waiting_has_a_limit():
    with pytest.raises(UserError, match="goes on from the last checkpoint"):
        answered_rewards(
            lambda: rewards_of(NAN, NAN), 2, replace(WAIT, limit_seconds=1.0), sleep=pytest.fail
        )


def test_an_exception_is_contained_and_kept():
    def fails(completions, **columns):
        raise ValueError("no")

    reward = ContainedReward(fails)
    assert reward(completions=["a", "b"]) == [None, None]
    assert isinstance(reward.error, ValueError)
    assert reward.__name__ == "fails"


def test_a_run_that_waits_ends_as_one_without_an_outage(tmp_path):
    weights, frames, logs = [], [], []
    for attempts in (0, 3):
        folder = tmp_path / str(attempts)
        run = Run(str(folder), cases=5, epochs=1, completions="framed", out_from_batch=1,
                  out_attempts=attempts)  # fmt: skip
        reward = OutReward(run)
        trainer = make_trainer(run, reward=reward)
        trainer.train()
        assert reward.attempts == attempts
        weights.append(trainer.model.state_dict())
        frames.append([pd.read_parquet(file) for file in sorted(folder.glob("completions/*"))])
        logs.append([row["answered"] for row in trainer.state.log_history if "answered" in row])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for one, other in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert logs[0] == logs[1]


def test_an_aborted_run_ends_before_the_bad_batch_and_goes_on_there(tmp_path):
    run = Run(str(tmp_path), cases=5, epochs=1, completions="framed", out_from_batch=1,
              out_attempts=1, on_outage="abort")  # fmt: skip
    with pytest.raises(UserError, match="this batch was not trained on"):
        make_trainer(run, reward=OutReward(run)).train()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["silent", "raising"])
def test_all_processes_stop_together_and_the_same_command_resumes(tmp_path, how):
    """The judge of one of two processes is out: neither hangs, and no trace is left."""
    script = Path(tiny_training.__file__)
    run = Run(str(tmp_path / "whole"), per_device_batch=4, epochs=1, completions="framed",
              out_from_batch=99, on_outage="abort")  # fmt: skip
    finished = launch(script, run, processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    whole = torch.load(tmp_path / "whole" / "result.pt")

    out = replace(run, folder=str(tmp_path / "out"))
    out_at_2 = replace(out, out_from_batch=2, out_attempts=1, out_on_process=1, out_how=how)
    ended = launch(script, out_at_2, processes=2)
    assert ended.returncode != 0
    expected = "no answer on" if how == "silent" else "the reward failed on process 1"
    assert expected in ended.stderr
    assert last_complete_checkpoint(tmp_path / "out").name == "checkpoint-2"
    finished = launch(script, out, processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = torch.load(tmp_path / "out" / "result.pt")
    assert all(torch.equal(v, result["weights"][name]) for name, v in whole["weights"].items())

"""A run that is killed again and again ends with the weights of one that was not."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import Run, launch

from alignxplore_trl.training.checkpoints import last_complete_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = Path(tiny_training.__file__)
# An epoch is four updates: block 1 in rounds 1 and 2, block 2 in rounds 1 and 2. Each kill, and
# the checkpoint that the next start goes on from.
KILLS = [
    ({"kill_in_update": 0}, None),  # before there is any checkpoint
    ({"kill_in_update": 1}, "checkpoint-1"),  # between rounds, first epoch
    ({"kill_in_update": 2}, "checkpoint-2"),  # between blocks
    ({"kill_in_update": 4}, "checkpoint-4"),  # at the start of the second epoch
    ({"kill_in_update": 5}, "checkpoint-5"),  # between rounds, second epoch
    ({"kill_in_save": 7}, "checkpoint-6"),  # with half a checkpoint on disk
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("processes", "kills"), [(1, KILLS), (2, [KILLS[-1]])])
def test_kills_leave_no_trace(tmp_path, processes, kills):
    run = Run(str(tmp_path / "whole"), per_device_batch=8 // processes, completions="framed")
    finished = launch(SCRIPT, run, processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    whole = torch.load(tmp_path / "whole" / "result.pt")

    killed = replace(run, folder=str(tmp_path / "killed"))
    for kill, checkpoint in kills:
        ended = launch(SCRIPT, replace(killed, **kill), processes)
        assert ended.returncode != 0
        assert not (tmp_path / "killed" / "result.pt").exists()
        last = last_complete_checkpoint(tmp_path / "killed")
        assert (last and last.name) == checkpoint, ended.stderr[-3000:]
    assert (tmp_path / "killed" / "checkpoint-7").exists(), "half a checkpoint is to lie there"
    finished = launch(SCRIPT, killed, processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = torch.load(tmp_path / "killed" / "result.pt")

    assert result["resumed_from"] == "checkpoint-6"
    for name, value in whole["weights"].items():
        assert torch.equal(value, result["weights"][name]), name
    for step in range(8):
        file = f"completions/step_{step:06d}.parquet"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()

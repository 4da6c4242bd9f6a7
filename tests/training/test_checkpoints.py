import torch

from alignxplore_trl.training.checkpoints import (
    COMPLETE_MARK,
    delete_incomplete_checkpoints,
    last_complete_checkpoint,
)


def make_checkpoint(folder, step, complete=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    if complete:
        (checkpoint / COMPLETE_MARK).touch()
    return checkpoint


def test_the_highest_complete_step_counts(tmp_path):
    make_checkpoint(tmp_path, 9)
    last = make_checkpoint(tmp_path, 10)
    unfinished = make_checkpoint(tmp_path, 11, complete=False)
    (tmp_path / "checkpoint-12").touch()
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) == last
    assert delete_incomplete_checkpoints(tmp_path) == [unfinished]
    assert not unfinished.exists()
    assert last_complete_checkpoint(tmp_path) == last
    assert (tmp_path / "checkpoint-best").exists()


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "not there") is None
    assert delete_incomplete_checkpoints(tmp_path / "not there") == []


def test_optimizer_states_load_to_the_device_that_accelerate_names(tmp_path):
    torch.save({"exp_avg": torch.arange(3)}, tmp_path / "optimizer.pt")
    loaded = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0))
    assert loaded["exp_avg"].tolist() == [0, 1, 2]
    assert loaded["exp_avg"].device.type == "cpu"

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from alignxplore_trl.training.checkpoints import (
    COMPLETE_MARK,
    CompleteCheckpoints,
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


class Weight(torch.nn.Module):
    """One weight that each step moves."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


class NotedSaves(CompleteCheckpoints):
    """Notes what it saves."""

    def save_beside(self, checkpoint):
        self.saved = [*getattr(self, "saved", []), checkpoint.name]


def trainer_of(folder, **arguments):
    """Four steps an epoch."""
    rows = Dataset.from_dict({"x": [[1.0]] * 8, "labels": [[3.0]] * 8})
    settings = TrainingArguments(
        str(folder), per_device_train_batch_size=2, use_cpu=True, report_to=[], learning_rate=0.01,
        save_total_limit=2, disable_tqdm=True, **arguments,
    )  # fmt: skip
    return NotedSaves(Weight(), settings, train_dataset=rows)


@pytest.mark.parametrize("max_steps", [6, 8])
def test_a_run_that_only_lacks_its_end_takes_no_more_steps(tmp_path, max_steps):
    steps = {"max_steps": max_steps, "save_steps": 2}
    whole = trainer_of(tmp_path, **steps)
    whole.train()
    resumed = trainer_of(tmp_path, **steps)
    done = resumed.train(resume_from_checkpoint=str(last_complete_checkpoint(tmp_path)))
    assert done.global_step == max_steps
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert last_complete_checkpoint(tmp_path).name == f"checkpoint-{max_steps}"


class SaveAtTheEndOfTheEpoch(TrainerCallback):
    """As a signal that comes with an epoch's last step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == 4


def test_what_is_complete_is_not_written_over(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=2, save_strategy="epoch")
    trainer.add_callback(SaveAtTheEndOfTheEpoch())
    trainer.train()
    assert trainer.saved == ["checkpoint-4", "checkpoint-8"]

"""What saves memory or time, switched on, gives the loss and the gradients of the plain path."""

from __future__ import annotations

import pytest
import tiny_cold_start
import tiny_training
import torch
from tiny_training import GradientRecorder


def cold_start(folder, examples=7, per_device_batch=3, **changes):
    """Losses and gradients of each step, and the trainer."""
    run = tiny_cold_start.Run(str(folder), examples, per_device_batch, accumulation=2)
    trainer, recorder = tiny_cold_start.make_trainer(run, **changes)
    trainer.train()
    result = tiny_cold_start.results(trainer, recorder)
    return [float(loss) for loss in result["losses"]], result["gradients"], trainer


def streaming_rl(folder, **changes):
    run = tiny_training.Run(str(folder), cases=6, epochs=1, completions="written")
    trainer = tiny_training.make_trainer(run, learning_rate=0.0, save_strategy="no", **changes)
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return losses, recorder.steps, trainer


def assert_same(found, expected):
    for loss, plain in zip(found[0], expected[0], strict=True):
        assert loss == pytest.approx(plain, abs=1e-5)
    for gradients, plain in zip(found[1], expected[1], strict=True):
        assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
        for name, gradient in plain.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [cold_start, streaming_rl])
def test_gradient_checkpointing(tmp_path, train):
    found = train(tmp_path / "found", gradient_checkpointing=True)
    assert found[2].model.is_gradient_checkpointing
    expected = train(tmp_path / "plain", gradient_checkpointing=False)
    assert not expected[2].model.is_gradient_checkpointing
    assert_same(found, expected)


@pytest.mark.parametrize("train", [cold_start, streaming_rl])
def test_bfloat16_points_where_float32_does(tmp_path, train):
    losses, found, _ = train(tmp_path / "found", bf16=True)
    plain_losses, expected, _ = train(tmp_path / "plain")
    assert losses == pytest.approx(plain_losses, rel=0.02, abs=0.02)
    for gradients, plain in zip(found, expected, strict=True):
        one, two = (torch.cat([each.flatten() for each in own.values()])
                    for own in (gradients, plain))  # fmt: skip
        assert not torch.equal(one, two)
        assert torch.cosine_similarity(one, two, dim=0) > 0.99


def test_batches_without_padding(tmp_path):
    found = cold_start(tmp_path / "found", padding_free=True, max_length=300)
    assert [len(batch["input_ids"]) for batch in found[2].micro_batches] == [1, 1, 1]
    assert_same(found, cold_start(tmp_path / "plain"))


def test_examples_that_are_packed_into_rows(tmp_path):
    """With rows of any number of examples, all of them in one step."""
    found = cold_start(
        tmp_path / "found", examples=12, per_device_batch=6, packing=True, max_length=300
    )
    rows = [len(batch["seq_idx"].unique()) for batch in found[2].micro_batches]
    assert sum(rows) == 12
    assert len(found[0]) == 1
    assert_same(found, cold_start(tmp_path / "plain", examples=12, per_device_batch=6))


def test_examples_of_a_row_do_not_see_each_other(tmp_path):
    """The last one is read alike, whatever stands before it in the row."""
    _, _, trainer = cold_start(tmp_path, padding_free=True, max_length=300)
    batch = dict(trainer.micro_batches[0])
    last = batch["seq_idx"] == batch["seq_idx"].max()
    with torch.no_grad():
        whole = trainer.model(**batch, fused_lm_head=True).log_probs
        batch["input_ids"] = batch["input_ids"].where(last, 5)
        other = trainer.model(**batch, fused_lm_head=True).log_probs
    torch.testing.assert_close(whole[last[:, 1:]], other[last[:, 1:]])
    assert not torch.allclose(whole, other)

"""Two processes train on what one process trains on."""

import json
from pathlib import Path

import pandas as pd
import pytest
import tiny_training
import torch
from tiny_training import Run, launch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run on one process and on two, with completions that depend on prompts alone."""
    results = []
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes_{processes}")
        run = Run(
            str(folder),
            cases=13,
            fewer=5,
            per_device_batch=8 // processes,
            completions="written",
            optimizer="sgd",
        )
        finished = launch(Path(tiny_training.__file__), run, processes)
        assert finished.returncode == 0, finished.stderr[-3000:]
        frames = [pd.read_parquet(file) for file in sorted((folder / "completions").iterdir())]
        result = torch.load(folder / "result.pt")
        result["throughput"] = json.loads((folder / "throughput.json").read_text())
        results.append((result, frames))
    return results


def test_cases_come_in_the_same_order_with_the_same_earlier_descriptions(both):
    (_, alone), (_, together) = both
    assert len(alone) == len(together) == 10
    for one, two in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_every_member_of_a_group_has_the_same_earlier_description_wherever_it_lies(both):
    _, (_, together) = both
    frames = [frame for frame in together if set(frame["round"]) == {2}]
    assert frames
    for frame in frames:
        # Eight rows lie on each process; a case of four rows on one of them, or on both.
        assert frame.groupby("case_id")["d_prev"].nunique(dropna=False).eq(1).all()
    assert pd.concat(frames)["d_prev"].notna().any()


def test_losses_gradients_and_weights_agree_to_float32_rounding(both):
    (alone, _), (together, _) = both
    assert len(alone["gradients"]) == len(together["gradients"]) == 10
    for loss_alone, loss_together in zip(alone["losses"], together["losses"], strict=True):
        assert float(loss_together) == pytest.approx(float(loss_alone), abs=1e-6)
    for one, two in zip(alone["gradients"], together["gradients"], strict=True):
        assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-6)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-4, atol=1e-6)


def test_what_is_measured_is_what_all_processes_did(both):
    alone, together = (result["throughput"] for result, _ in both)
    for counted in ("tokens", "generated_tokens", "training_flops", "generation_flops"):
        assert together[counted] == alone[counted] > 0
    assert set(together["seconds"]) == {"generate", "judge", "train", "other"}


def test_a_group_may_lie_on_two_processes(tmp_path):
    """With two completions per process, every group of four lies on both."""
    run = Run(
        str(tmp_path), cases=3, per_device_batch=2, accumulation=1, epochs=1, completions="written"
    )
    finished = launch(Path(tiny_training.__file__), run, processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    frames = [pd.read_parquet(file) for file in sorted((tmp_path / "completions").iterdir())]
    assert [set(frame["round"]) for frame in frames] == [{1}, {2}] * 3
    for frame in frames:
        assert frame["case_id"].nunique() == 1
        assert frame["prompt"].nunique() == 1
        assert frame["d_prev"].nunique(dropna=False) == 1
    assert pd.concat(frames)["d_prev"].notna().any()
